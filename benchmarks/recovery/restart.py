"""Kills a rank of a running job again and again, and watches it come back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from tfdist.launch.errors import CommandError
from tfdist.launch.local_jobs import FEW_THREADS, ON_CPUS
from tfdist.launch.processes import child_environment, end, tail

POLL = 0.02
STEPS_BEFORE = 45  # so that there is something to load
TIMEOUT = 120.0  # seconds to the next event


class Event(NamedTuple):
    """One line that a rank wrote."""

    what: str
    rank: int
    start: int  # which start of the job it belongs to
    time: float
    step: int
    pid: int


def recoveries(folder: Path, *, kills: int, ranks: int, parameters: int) -> dict:
    """Returns the seconds of each part of each recovery.

    Raises:
        CommandError: The job ended, or stood still.
    """
    command = [sys.executable, "-m", "tfdist.launch", "run", "-np", str(ranks)]
    command += ["--strategy", "horovod", "--max-restarts", str(kills)]
    command += ["-m", "benchmarks.recovery.train", str(folder)]
    command += ["--parameters", str(parameters)]
    log = folder / "log.txt"
    found: dict[str, list[float]] = {"detection": [], "restart": [], "load": []}
    with log.open("wb") as output:
        job = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=child_environment(FEW_THREADS | ON_CPUS),
            start_new_session=True,
        )
        try:
            for number in range(kills):
                _recover(job, folder / "events", log, number, ranks - 1, found)
        finally:
            end(job)
    return found


def _recover(
    job: subprocess.Popen, file: Path, log: Path, number: int, victim: int, found: dict
) -> None:
    first = _await(job, file, log, lambda e: e.what == "step" and e.start == number)
    late = _await(
        job,
        file,
        log,
        lambda e: (
            e.what == "step"
            and e.start == number
            and e.rank == victim
            and e.step >= first.step + STEPS_BEFORE
        ),
    )
    length = log.stat().st_size
    killed = time.time()
    os.kill(late.pid, signal.SIGKILL)
    deadline = time.monotonic() + TIMEOUT
    while b"restart" not in log.read_bytes()[length:]:
        _go_on(job, log, deadline)
    detected = time.time()
    again = _await(job, file, log, lambda e: e.what == "fit" and e.start > number)
    step = _await(job, file, log, lambda e: e.what == "step" and e.start > number)
    found["detection"].append(detected - killed)
    found["restart"].append(again.time - detected)
    found["load"].append(step.time - again.time)


def _await(job: subprocess.Popen, file: Path, log: Path, wanted) -> Event:
    deadline = time.monotonic() + TIMEOUT
    while True:
        for event in _events(file):
            if wanted(event):
                return event
        _go_on(job, log, deadline)


def _go_on(job: subprocess.Popen, log: Path, deadline: float) -> None:
    if job.poll() is not None or time.monotonic() > deadline:
        state = "stands still" if job.poll() is None else f"ended: {job.returncode}"
        raise CommandError(f"The job {state}.\n{tail(log)}", hint="see the log")
    time.sleep(POLL)


def _events(file: Path) -> list[Event]:
    if not file.exists():
        return []
    lines = [line.split() for line in file.read_text().splitlines()]
    return [
        Event(w[0], int(w[1]), int(w[2]), float(w[3]), int(w[4]), int(w[5]))
        for w in lines
        if len(w) == len(Event._fields)
    ]
