"""What follows when a job has ended: another start, or the end. No clock, no sockets.

Restart-all is the model of torchrun: when one rank fails all are ended, and all are
started again; the script finds its newest checkpoint and goes on from there. Horovod's
own elastic mode is not used: its rendezvous server executes what any host sends it
(CVE-2024-10190), and TensorFlow's collectives cannot be set up twice in one process.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tfdist.launch.run.endings import REPEATED, Ending


@dataclass(frozen=True)
class Policy:
    """How often a job is started again; the default is never."""

    restarts: int = 0  # after failures, in all
    preemptions: float = 0  # restarts after preemptions, in all; may be infinite
    repeats: int = 3  # failures in a row at one step that end the job; 0: any number
    wait: float = 1.0  # seconds before the first restart; doubled while nothing is won
    longest_wait: float = 60.0  # seconds

    @property
    def is_on(self) -> bool:
        """Whether anything can be started again."""
        return self.restarts > 0 or self.preemptions > 0


@dataclass(frozen=True)
class Decision:
    """What is to be done after one start has ended."""

    code: int | None  # the command's exit code; None: start again
    counted: str = ""  # "failure 1 of 3"; why it ends, or what the restart counts as
    wait: float = 0.0  # seconds before the restart


class History:
    """Counts what has happened to one job.

    Failures and preemptions are counted apart, as Ray Train does: machines that are
    taken away and given back say nothing about the job. Neither count falls again.

    Args:
        policy: What is allowed.
    """

    def __init__(self, policy: Policy):
        self._policy = policy
        self._failures = 0
        self._preemptions = 0
        self._failed_at: int | None = None  # the step of the last failure
        self._repeats = 0  # failures in a row there
        self._best = -1  # the last step that any start has reached
        self._idle = 0  # starts in a row that got no further

    @property
    def starts(self) -> int:
        """How many starts have ended so that the next one is a restart."""
        return self._failures + self._preemptions

    def judge(self, ending: Ending) -> Decision:
        """Returns what follows.

        Args:
            ending: How the last start ended.
        """
        if ending.code == 0 or ending.interrupted or not self._policy.is_on:
            return Decision(ending.code)
        self._note_progress(ending.reached)
        if ending.preempted:
            self._preemptions += 1
            count, limit = self._preemptions, self._policy.preemptions
        else:
            self._failures += 1
            count, limit = self._failures, self._policy.restarts
            if self._is_repeated(ending.reached):
                return Decision(REPEATED, self._repeated_where(ending.reached))
        kind = "preemption" if ending.preempted else "failure"
        if count > limit:
            return Decision(ending.code, f"no restart is left after {limit:.0f}")
        of = "" if math.isinf(limit) else f" of {limit:.0f}"
        return Decision(None, f"{kind} {count}{of}", self._wait())

    def _note_progress(self, reached: int | None) -> None:
        further = reached is not None and reached > self._best
        if reached is not None:
            self._best = max(self._best, reached)
        self._idle = 1 if further else self._idle + 1

    def _is_repeated(self, reached: int | None) -> bool:
        same = self._repeats and reached == self._failed_at
        self._repeats = self._repeats + 1 if same else 1
        self._failed_at = reached
        return 0 < self._policy.repeats <= self._repeats

    def _repeated_where(self, reached: int | None) -> str:
        if reached is None:
            where = "could not be started"
        elif reached:
            where = f"failed right after step {reached}"
        else:
            where = "failed before its first step was complete"
        times = "once" if self._repeats == 1 else f"{self._repeats} times in a row"
        return f"the job {where} {times}, and would again"

    def _wait(self) -> float:
        # The exponent is bounded, for a float is.
        doubled = self._policy.wait * 2.0 ** min(self._idle - 1, 60)
        return min(doubled, self._policy.longest_wait)
