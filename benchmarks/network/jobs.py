"""Starts a method's ranks on test hosts, and orders them about."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.network import torch_environment
from benchmarks.network.methods import ALONE, HOROVOD, Method
from benchmarks.network.orders import Commander
from tests.hosts.bed import Bed
from tests.hosts.jobs import ENVIRONMENT

POLL_SECONDS = 0.02
END_SECONDS = 30.0
PROGRAMS = "benchmarks.network.programs"
TF_PORT, TORCH_PORT = 2222, 29500


class JobError(Exception):
    """A job ended, or did not answer in time; the message holds what it said."""


class Job:
    """Running ranks; see `started`."""

    def __init__(
        self,
        processes: list[subprocess.Popen[str]],
        commander: Commander,
        log: Path,
    ) -> None:
        self._processes, self._commander, self._log = processes, commander, log

    def ask(self, seconds: float, **order: Any) -> list[dict[str, Any]]:
        """Gives an order to all ranks and returns their answers.

        Raises:
            JobError: If a rank ends, or they take longer than `seconds`.
        """
        self._commander.order(**order)
        deadline = time.monotonic() + seconds
        while (answers := self._commander.answers()) is None:
            if any(process.poll() is not None for process in self._processes):
                raise JobError(f"it ended: {self._said()}")
            if time.monotonic() > deadline:
                raise JobError(f"no answer within {seconds:.0f} s: {self._said()}")
            time.sleep(POLL_SECONDS)
        return answers

    def _said(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        errors = [line for line in lines if "Error" in line]
        return (errors or lines or ["nothing was said"])[-1].strip()


@contextmanager
def started(bed: Bed, method: Method, model: str) -> Iterator[Job]:
    """Runs a method's ranks, one on each host, for as long as the `with` takes."""
    names = list(bed.hosts)[: 1 if method.launcher == ALONE else None]
    with tempfile.TemporaryDirectory(prefix="tfdist-benchmark-") as name:
        folder = Path(name)
        log = folder / "log"
        commander = Commander(folder, len(names))
        processes: list[subprocess.Popen[str]] = []
        try:
            for host, command, environment in _commands(
                bed, method, names, [str(folder), model]
            ):
                # To a file: nobody reads a pipe while the ranks are measured.
                shell = ["bash", "-c", 'exec "$@" >>"$0" 2>&1', str(log), *command]
                processes.append(bed.start(host, shell, ENVIRONMENT | environment))
            yield Job(processes, commander, log)
            commander.end()
            for process in processes:
                process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            pass  # all is measured; what does not end is ended
        finally:
            for process in processes:
                bed.end(process)
                process.wait()


def _commands(
    bed: Bed, method: Method, names: list[str], arguments: list[str]
) -> list[tuple[str, list[str], dict[str, str]]]:
    """Returns what to start: host, command, and what the environment needs."""
    python = str(torch_environment.PYTHON) if method.torch else sys.executable
    program = [python, "-m", f"{PROGRAMS}.{method.program}", *arguments]
    program.append(json.dumps(dict(method.options)))
    if method.launcher == HOROVOD:
        run = ["horovodrun", "--disable-cache", "--gloo", "-np", str(len(names))]
        return [(names[0], [*run, "-H", bed.slots(), *program], {})]
    workers = [f"{name}:{TF_PORT}" for name in names]
    commands = []
    for rank, name in enumerate(names):
        environment = {
            "BENCHMARK_RANK": str(rank),
            "BENCHMARK_SIZE": str(len(names)),
            "BENCHMARK_MASTER": f"tcp://{bed.address(names[0])}:{TORCH_PORT}",
            "GLOO_SOCKET_IFNAME": bed.hosts[name].interface,
        }
        if method.program == "multiworker_loop":
            task = {"type": "worker", "index": rank}
            environment["TF_CONFIG"] = json.dumps(
                {"cluster": {"worker": workers}, "task": task}
            )
        commands.append((name, program, environment))
    return commands
