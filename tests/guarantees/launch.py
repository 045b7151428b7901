"""Start a program's processes, bound their time, and collect what they found."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.parallel.modes import FEW_THREADS, OPEN_MPI
from tests.processes import end
from tfdist.launch.ports import free_ports

ROOT = Path(__file__).resolve().parents[2]
# Horovod's operations wait without blocking a thread; TensorFlow's collectives block
# one for each replica.
THREADS = FEW_THREADS | {"TF_NUM_INTEROP_THREADS": "2"}
FOREIGN = ("TF_CONFIG", "HOROVOD_", "OMPI_", "PMI_", "PMIX_", "SLURM_", "TFDIST_")


def single(*command: str) -> list[tuple[list[str], dict]]:
    """One process that no launcher started."""
    return [([*command], FEW_THREADS)]


def gloo(*command: str, processes: int = 2) -> list[tuple[list[str], dict]]:
    """Horovod over Gloo."""
    hosts = f"localhost:{processes}"
    launcher = ["horovodrun", "--gloo", "-np", str(processes), "-H", hosts]
    return [([*launcher, *command], THREADS)]


def gloo3(*command: str) -> list[tuple[list[str], dict]]:
    """Horovod over Gloo with three ranks, whose sums depend on the order."""
    return gloo(*command, processes=3)


def mpi(*command: str) -> list[tuple[list[str], dict]]:
    """Horovod over MPI."""
    return [(["mpirun", "--bind-to", "none", "-np", "2", *command], THREADS)]


def workers(*command: str) -> list[tuple[list[str], dict]]:
    """Two workers of TF_CONFIG, which nobody ends when one of them fails."""
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]}
    tasks = [{"type": "worker", "index": index} for index in range(2)]
    return [
        (
            [*command],
            FEW_THREADS | {"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})},
        )
        for task in tasks
    ]


WAYS = {
    "default": single,
    "mirrored": single,
    "horovod": gloo,
    "horovod-3": gloo3,
    "horovod-mpi": mpi,
    "multiworker": workers,
}
RANKS = {"horovod": 2, "horovod-3": 3, "horovod-mpi": 2, "multiworker": 2}


class Findings:
    """What the ranks of a finished launch found, by the name of the measurement."""

    def __init__(self, folder: Path, ranks: int, codes: list[int | None]) -> None:
        self.folder = folder
        self.ranks = ranks
        self.codes = codes  # one for each process started here; None: had to be ended
        self.log = "".join(
            path.read_text(errors="replace") for path in sorted(folder.glob("log.*"))
        )

    def __getitem__(self, name: str) -> list[Any]:
        """Return the findings in the order of the ranks, or fail the test."""
        return [self.of(rank, name) for rank in range(self.ranks)]

    def of(self, rank: int, name: str) -> Any:
        """Return what one rank found, or fail the test."""
        path = self.folder / f"{name}.{rank}.json"
        if not path.exists():
            pytest.fail(
                f"rank {rank} found nothing about {name!r}; exit codes {self.codes}, "
                f"the end of the log:\n{self.log[-3000:]}"
            )
        return json.loads(path.read_text())


def launch(
    program: str, way: str, folder: Path, *arguments: str, seconds: float = 150.0
) -> Findings:
    """Run a program on all ranks and return what they found.

    Args:
        program: The name of a module in `tests/guarantees`, or a module's full name.
        way: One of `WAYS`.
        folder: Where its findings and logs go.
        *arguments: For the program; see `place.main`.
        seconds: After these its processes are ended.
    """
    return launch_all([(program, way, folder, *arguments)], seconds)[0]


def launch_all(
    launches: Sequence[tuple[Any, ...]], seconds: float = 150.0
) -> list[Findings]:
    """Run several programs, each as `launch` would, side by side: they mostly wait."""
    started = []
    try:
        for program, way, folder, *arguments in launches:
            started.append(_start(program, way, folder, arguments))
        deadline = time.monotonic() + seconds
        codes = [
            [_wait(process, deadline) for process in processes] for processes in started
        ]
    finally:
        for processes in started:
            for process in processes:
                end(process)
    return [
        Findings(folder, RANKS.get(way, 1), codes_of_launch)
        for (_, way, folder, *_), codes_of_launch in zip(launches, codes, strict=True)
    ]


def _start(
    program: str, way: str, folder: Path, arguments: Sequence[str]
) -> list[subprocess.Popen]:
    folder.mkdir(parents=True, exist_ok=True)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
    scripts = Path(sys.executable).parent  # horovodrun and mpirun, beside Python
    inherited["PATH"] = f"{scripts}{os.pathsep}{inherited.get('PATH', '')}"
    module = program if "." in program else f"tests.guarantees.{program}"
    command = [sys.executable, "-m", module]
    command += ["--strategy", way.partition("-")[0], "--out", str(folder), *arguments]
    processes = []
    for number, (line, environment) in enumerate(WAYS[way](*command)):
        line[0] = str(scripts / line[0])
        with (folder / f"log.{number}.txt").open("w") as output:
            processes.append(
                subprocess.Popen(
                    line,
                    cwd=ROOT,
                    env=inherited | OPEN_MPI | environment,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
            )
    return processes


def _wait(process: subprocess.Popen, deadline: float) -> int | None:
    try:
        return process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return None
