"""Which process holds something, and whether it still runs."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Owner:
    """A process, told from all others.

    Attributes:
        host: Its machine, for people.
        machine: This start of the machine and the container; "" where not known.
        process: Its number.
        started: When it started, in the machine's own ticks: numbers are used again.
    """

    host: str
    machine: str
    process: int
    started: str

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"


def this_process() -> Owner:
    """Returns this process."""
    process = os.getpid()
    return Owner(platform.node(), _machine(), process, _started(process) or "")


def is_running(owner: Owner) -> bool | None:
    """Returns whether a process runs; None if it is on another machine, or unknown.

    No clock is asked: a number that was given to a new process has another start.
    """
    if not owner.machine or owner.machine != _machine():
        return None
    return _started(owner.process) == owner.started


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return ""


def _started(process: int) -> str | None:
    """Returns a process's start in ticks after the boot; None if it has ended."""
    try:
        # "12 (a name) S 1 ...": a name may hold anything, also parentheses.
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    # Z, X: ended, but its parent has not asked yet.
    return None if fields[0] in "ZX" else fields[19]
