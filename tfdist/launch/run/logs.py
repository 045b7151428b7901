"""Where the ranks' output goes: all into files, rank 0's also to the terminal."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from tfdist.launch.run.child import STDERR, STDOUT

LAUNCHER_LOG = "launcher.log"
EXITS = "exits.jsonl"


def attempt_folder(folder: Path, restarts: int) -> Path:
    """Returns where the logs go of one of several starts."""
    return folder / f"attempt-{restarts}"


def remove_old(folder: Path) -> None:
    """Removes the logs of an earlier run, and nothing else."""
    for attempt in folder.glob("attempt-*"):
        remove_old(attempt)
        with suppress(OSError):  # somebody else's files are in there
            attempt.rmdir()
    for old in (*folder.glob("rank-*.log"), folder / EXITS, folder / LAUNCHER_LOG):
        old.unlink(missing_ok=True)


class Logs:
    """The files of one start of a job.

    Args:
        folder: Made if it is not there; see `remove_old` for what it may hold.
        size: The number of ranks.
    """

    def __init__(self, folder: Path, size: int):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._digits = len(str(size - 1))
        self._files = [self.path(rank).open("wb", buffering=0) for rank in range(size)]
        self._exits = (folder / EXITS).open("w")
        self.launcher: BinaryIO = (folder / LAUNCHER_LOG).open("wb")
        self._has_reader = True

    def path(self, rank: int) -> Path:
        """Returns the log of a rank."""
        return self.folder / f"rank-{rank:0{self._digits}}.log"

    def write(self, rank: int, kind: int, data: bytes, shown: bool) -> None:
        """Takes what a rank wrote, and shows it to the user as it is."""
        self._files[rank].write(data)
        if shown and kind in (STDOUT, STDERR) and self._has_reader:
            self._show(kind, data)

    def record(self, exit_record: Mapping[str, Any]) -> None:
        """Takes how a rank ended, as one line of JSON; the first one comes first."""
        self._exits.write(json.dumps(exit_record) + "\n")
        self._exits.flush()

    def close(self) -> None:
        """Closes the files."""
        for file in (*self._files, self.launcher):
            file.close()
        self._exits.close()

    def _show(self, kind: int, data: bytes) -> None:
        stream = sys.stdout if kind == STDOUT else sys.stderr
        try:
            stream.flush()
            while data:
                data = data[os.write(stream.fileno(), data) :]
        except OSError:  # nobody reads any more, as in `tfdist run ... | head`
            self._has_reader = False
