"""Small jobs that tfdist starts for itself, under every strategy, on a time limit."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tfdist.launch.horovod_proof import PROOF_ENVIRONMENT
from tfdist.launch.ports import free_ports
from tfdist.launch.processes import Program, child_environment, find_program

# One core a rank. TensorFlow's collectives block one inter-op thread a replica.
FEW_THREADS = {
    "OMP_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "4",
}

# Two ranks may not share a GPU, and there may be fewer GPUs than ranks.
ON_CPUS = {"CUDA_VISIBLE_DEVICES": "-1"}

# What the launcher of another job has left would be taken for this job's.
FOREIGN = ("TF_CONFIG", "HOROVOD_", "OMPI_COMM_", "PMI_", "PMIX_", "SLURM_")


def single(words: Sequence[str], folder: Path) -> list[Program]:
    """Returns one process that no launcher starts."""
    return [_program([sys.executable, *words], folder)]


def horovodrun(
    words: Sequence[str], folder: Path, *, controller: str, np: int, hosts: str = ""
) -> list[Program]:
    """Returns a Horovod job, as its launcher.

    Args:
        words: What Python is to run: `["-m", "package.module", ...]`.
        folder: Receives the log.
        controller: "gloo" or "mpi".
        np: How many ranks.
        hosts: `host:slots,...`; this machine where empty.
    """
    launcher = find_program("horovodrun") or "horovodrun"
    command = [launcher, "-np", str(np), f"--{controller}", "--disable-cache"]
    command += ["-H", hosts or f"localhost:{np}", sys.executable, *words]
    return [_program(command, folder)]


def workers(words: Sequence[str], folder: Path, *, np: int) -> list[Program]:
    """Returns the workers of a TF_CONFIG cluster on this machine."""
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(np)]}
    return [
        _program(
            [sys.executable, *words],
            folder,
            number,
            TF_CONFIG=json.dumps(
                {"cluster": cluster, "task": {"type": "worker", "index": number}}
            ),
        )
        for number in range(np)
    ]


def _program(
    command: Sequence[str], folder: Path, number: int = 0, **extra: str
) -> Program:
    inherited = child_environment()
    chosen = {name: os.environ.get(name, value) for name, value in FEW_THREADS.items()}
    environment = {
        name: value for name, value in inherited.items() if not name.startswith(FOREIGN)
    }
    environment |= PROOF_ENVIRONMENT | ON_CPUS | chosen | extra
    return Program(command, folder / f"log.{number}.txt", environment)
