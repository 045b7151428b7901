"""The modes of the matrix: which strategy, and how its processes are started."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.parallel.registry import Needs, Row
from tfdist.launch.ports import free_ports

# One core a rank; collectives of two replicas block two of the inter-op threads.
FEW_THREADS = {
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "4",
    "OMP_NUM_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "CUDA_VISIBLE_DEVICES": "-1",
}
# Containers run as root and have fewer cores than ranks; Open MPI refuses both.
OPEN_MPI = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    # Ranks that wait leave the core to what they wait for.
    "OMPI_MCA_mpi_yield_when_idle": "1",
}


@dataclass(frozen=True)
class Mode:
    """One column of the matrix."""

    name: str
    title: str  # heading of the column
    strategy: str  # what the worker builds, see worker.make_strategy
    processes: int = 1
    launcher: tuple[str, ...] = ()  # a program beside this interpreter, with flags
    peer: bool = False  # not tfdist: measured for the comparison, expected to fail
    offers: Needs = Needs.TFDIST

    def can_run(self, row: Row) -> bool:
        """Return whether the row means anything in this mode."""
        return row.needs <= self.offers


def _horovodrun(processes: int) -> tuple[str, ...]:
    return (
        "horovodrun",
        "--gloo",
        "-np",
        str(processes),
        "-H",
        f"localhost:{processes}",
    )


MPIRUN = ("mpirun", "--bind-to", "none", "-np", "2")

MODES = {
    mode.name: mode
    for mode in (
        Mode("single", "one process", "single"),
        Mode("default", "default", "default"),
        Mode("mirrored", "mirrored", "mirrored"),
        Mode("multiworker", "multiworker", "multiworker", 2),
        Mode("horovod-gloo", "horovod, Gloo", "horovod", 2, _horovodrun(2)),
        Mode("horovod-mpi", "horovod, MPI", "horovod", 2, MPIRUN),
        Mode("horovod-3", "horovod, 3 ranks", "horovod", 3, _horovodrun(3)),
        Mode(
            "plain-mirrored",
            "TF Mirrored",
            "plain-mirrored",
            peer=True,
            offers=Needs.STRATEGY,
        ),
        Mode(
            "plain-multiworker",
            "TF MultiWorker",
            "plain-multiworker",
            2,
            peer=True,
            offers=Needs.STRATEGY,
        ),
        Mode(
            "stock-horovod",
            "stock Horovod",
            "stock-horovod",
            2,
            _horovodrun(2),
            peer=True,
            offers=Needs.KERAS,
        ),
    )
}
REFERENCE = "single"
OUT_OF_STEP = "out_of_step"  # file: the ranks of a launch ended it after a failed row


def commands(mode: Mode, arguments: list[str]) -> list[tuple[list[str], dict]]:
    """Return the command and the environment of each process to start."""
    scripts = Path(sys.executable).parent
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("TF_CONFIG", "HOROVOD_", "OMPI_", "PMI_", "SLURM_"))
    }
    environment |= FEW_THREADS | OPEN_MPI
    environment["PATH"] = f"{scripts}{os.pathsep}{environment.get('PATH', '')}"
    worker = [sys.executable, "-m", "tests.parallel.worker", *arguments]
    if mode.launcher:
        program = [str(scripts / mode.launcher[0]), *mode.launcher[1:]]
        return [(program + worker, environment)]
    if mode.processes == 1:
        return [(worker, environment)]
    addresses = [f"127.0.0.1:{port}" for port in free_ports(mode.processes)]
    return [
        (worker, environment | {"TF_CONFIG": _tf_config(addresses, index)})
        for index in range(mode.processes)
    ]


def _tf_config(addresses: list[str], index: int) -> str:
    task = {"type": "worker", "index": index}
    return json.dumps({"cluster": {"worker": addresses}, "task": task})


def own_place() -> tuple[int, int]:
    """Return this process's rank and the number of processes, from its launcher."""
    if "HOROVOD_RANK" in os.environ:
        return int(os.environ["HOROVOD_RANK"]), int(os.environ["HOROVOD_SIZE"])
    if "OMPI_COMM_WORLD_RANK" in os.environ:
        size = int(os.environ["OMPI_COMM_WORLD_SIZE"])
        return int(os.environ["OMPI_COMM_WORLD_RANK"]), size
    if "TF_CONFIG" in os.environ:
        config = json.loads(os.environ["TF_CONFIG"])
        return config["task"]["index"], len(config["cluster"]["worker"])
    return 0, 1
