"""Who am I? The only place that knows the rank and the size of the job.

The answers are right under every strategy and in one process. Before a strategy
exists they come from the launcher's environment, so a script may ask early (to
name a log file, say) without starting TensorFlow. `size()` counts processes:
MirroredStrategy drives all its devices from one process and is rank 0 of 1.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from tfdist.coordination.launch import read_launch
from tfdist.errors import TfdistError, explain


def _nobody_to_wait_for(name: str, timeout: float) -> None:
    del name, timeout


@dataclass(frozen=True)
class Member:
    """This process's place in the job; the default is a job of one process."""

    rank: int = 0  # 0 <= rank < size
    size: int = 1  # processes in the job
    local_rank: int = 0  # rank among the processes of this host
    barrier: Callable[[str, float], None] = _nobody_to_wait_for  # (name, seconds)


_installed: Member | None = None


def install(member: Member | None) -> None:
    """Makes `member` this process's identity; a strategy calls it once.

    Args:
        member: The identity, or None to ask the launcher's environment again.
    """
    global _installed
    _installed = member


def rank() -> int:
    """Returns this process's number, from 0 to `size() - 1`."""
    return _member().rank


def size() -> int:
    """Returns the number of processes in the job."""
    return _member().size


def local_rank() -> int:
    """Returns this process's number among those of the same host."""
    return _member().local_rank


def is_chief() -> bool:
    """Returns whether this is rank 0, the one that prints and writes files."""
    return rank() == 0


def barrier(name: str = "barrier", timeout: float = 600.0) -> None:
    """Waits until every process has called `barrier` with the same name.

    Args:
        name: Shown in the error when ranks meet at different places.
        timeout: Seconds to wait for the slowest process.

    Raises:
        TfdistError: A rank is elsewhere, has ended or stays silent; or there are
            several processes but no strategy that connects them yet.

    Example:
        >>> from tfdist import cluster
        >>> cluster.barrier("data is prepared", timeout=60)
    """
    _member().barrier(name, timeout)


def _not_connected(name: str, timeout: float) -> None:
    del timeout
    raise TfdistError(
        explain(
            f"barrier({name!r}) was called before the processes were connected",
            received=f"rank {rank()} of {size()} without a strategy",
            expected="a strategy made earlier in the script",
            hint="Call tfdist.strategy('auto') before tfdist.cluster.barrier().",
        )
    )


def _member() -> Member:
    if _installed is not None:
        return _installed
    launch = read_launch(os.environ)
    if launch is None or launch.size == 1:
        return Member()
    return Member(launch.rank, launch.size, launch.local_rank, _not_connected)
