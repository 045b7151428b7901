"""How one start of a job ended, and the exit codes that have a meaning."""

from __future__ import annotations

import signal
from dataclasses import dataclass

# What asks a job to end: a terminal, a cluster, a lost login, and Slurm before its
# time limit (`--signal=USR1@60`).
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)

# Ranks that were told to leave, and left: 143 and 138, as a shell reports them.
PREEMPTED = (128 + signal.SIGTERM, 128 + signal.SIGUSR1)

TOO_FEW_HOSTS = 69  # EX_UNAVAILABLE: too few hosts answered for a restart
REPEATED = 76  # one step has ended the job again and again


@dataclass(frozen=True)
class Ending:
    """How one start of a job ended."""

    code: int  # the command's exit code, if no restart follows
    what: str = ""  # "rank 1 of 2 on h2 ended with exit code 3"; "": nobody failed
    log: str = ""  # the file that tells more
    detail: str = ""  # what the user sees of it, if no restart follows
    reached: int | None = None  # the last complete step of the rank that failed
    interrupted: bool = False  # this command itself was told to end

    @property
    def preempted(self) -> bool:
        """Whether ranks were told to leave, rather than failed."""
        return self.code in PREEMPTED
