"""Where each rank of a job is, readable from outside even when it has been killed."""

import os
from dataclasses import dataclass
from pathlib import Path

_WIDTH = 64  # bytes; one write of so many is never seen half


@dataclass(frozen=True)
class Told:
    """What one rank has told last."""

    pid: int
    step: int  # the last complete step of the run
    where: str  # "start", "training", "validation" or "end"


class Teller:
    """Writes where a rank is, in one system call.

    Args:
        folder: The job's.
        restarts: The number of this start.
        rank: Of this process.
    """

    def __init__(self, folder: Path, restarts: int, rank: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT
        self._file = os.open(_path(folder, restarts, rank), flags, 0o600)

    def tell(self, step: int, where: str) -> None:
        text = f"{os.getpid()} {step} {where}\n"
        os.pwrite(self._file, text.ljust(_WIDTH).encode(), 0)


def read(folder: Path, restarts: int, rank: int) -> Told | None:
    """Return what a rank of a start has told; None before its first word."""
    try:
        words = _path(folder, restarts, rank).read_text().split()
    except FileNotFoundError:
        return None
    return Told(int(words[0]), int(words[1]), words[2]) if words else None


def _path(folder: Path, restarts: int, rank: int) -> Path:
    return folder / f"told-{restarts}-{rank}"
