"""The time limits of the ledger, in one place."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from tfdist.errors import explain

_VARIABLE = "TFDIST_STALL_TIMEOUT"


@dataclass(frozen=True)
class Limits:
    """How long the ledger waits for what; all in seconds."""

    tick: float = 0.5  # between two samples of the main thread
    settle: float = 2.0  # for all ranks to show their version of a disagreement
    verdict: float = 10.0  # blocked after a verdict before the call is aborted
    disagreement: float = 15.0  # one rank waits while another is blocked elsewhere
    stall: float = 600.0  # no rank makes any progress
    leave: float = 10.0  # to leave the aborted call before the process is ended

    @property
    def agreement(self) -> float:
        """For all ranks to come to one place, where the call says nothing else."""
        return max(300.0, self.stall)


def stall_limit(stall_timeout: float | None) -> float:
    """Returns the stall timeout: the argument, else TFDIST_STALL_TIMEOUT, else 600.

    Args:
        stall_timeout: Seconds, or None to ask the environment.

    Raises:
        ValueError: The number of seconds is not positive.
    """
    given = os.environ.get(_VARIABLE) if stall_timeout is None else stall_timeout
    if given is None:
        return Limits.stall
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not seconds > 0:
        raise ValueError(
            explain(
                "The stall timeout is not a positive number of seconds",
                received=repr(given),
                expected="a number such as 600",
                hint=f"Set {_VARIABLE}=600, or pass stall_timeout=600.",
            )
        )
    return seconds
