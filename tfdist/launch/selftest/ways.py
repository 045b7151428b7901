"""The ways to train that the self-test tries, and which of them can run here."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tfdist.launch import local_jobs
from tfdist.launch.here import horovod_library
from tfdist.launch.processes import Program, child_environment, find_program
from tfdist.launch.selftest.registry import SINGLE

Starter = Callable[[Sequence[str], Path], list[Program]]


@dataclass(frozen=True)
class Way:
    """One strategy, started in one way."""

    title: str  # "horovod over gloo"
    strategy: str
    ranks: int  # processes
    start: Starter
    missing: str = ""  # why it cannot run here


def reference_way() -> Way:
    """Returns plain Keras in one process."""
    return Way("one process", SINGLE, 1, local_jobs.single)


def find_ways(np: int) -> tuple[Way, ...]:
    """Returns all ways, those that cannot run here with the reason.

    Args:
        np: How many replicas.
    """
    return (
        Way("mirrored", "mirrored", 1, local_jobs.single),
        Way("multiworker", "multiworker", np, partial(local_jobs.workers, np=np)),
        *(
            Way(
                f"horovod over {controller}",
                "horovod",
                np,
                partial(local_jobs.horovodrun, np=np, controller=controller),
                missing=_missing_horovod() or (_missing_mpi() if mpi else ""),
            )
            for controller, mpi in (("gloo", False), ("mpi", True))
        ),
    )


def _missing_horovod() -> str:
    if horovod_library() is None:
        return "Horovod is not installed"
    return "" if find_program("horovodrun") else "horovodrun was not found"


def _missing_mpi() -> str:
    library = horovod_library()
    # Asking Horovod itself would import TensorFlow, for seconds.
    if library is None or b"libmpi" not in library.read_bytes():
        return "Horovod is not built with MPI"
    mpirun = find_program("mpirun")
    if mpirun is None:
        return "mpirun was not found"
    try:
        version = subprocess.run(
            [mpirun, "--version"],
            env=child_environment(),
            capture_output=True,
            text=True,
            timeout=20,
        ).stdout
    except subprocess.TimeoutExpired:
        return "mpirun --version does not answer"
    return "horovodrun needs Open MPI 4, not 5" if "(Open MPI) 5" in version else ""
