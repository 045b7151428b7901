"""Ranks that get a signal: all stop after the same step, under every launcher."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.parallel.modes import MODES, commands
from tests.processes import end

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ("-m", "tests.recovery.preempted")
SECONDS = 120.0


def start(mode: str, *words: str) -> list[subprocess.Popen]:
    """Start the program as the ranks of a mode of the matrix."""
    processes = []
    for command, environment in commands(MODES[mode], []):
        place = command.index("-m")
        strategy = MODES[mode].strategy
        command = [*command[:place], *PROGRAM, strategy, *words]
        processes.append(
            subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment | {"PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        )
    return processes


def outcome(mode: str, *words: str) -> tuple[set[int], str]:
    """Return the exit codes, and all that was written."""
    processes = start(mode, *words)
    try:
        texts = [process.communicate(timeout=SECONDS)[0] for process in processes]
    finally:
        for process in processes:
            end(process)
    return {process.returncode for process in processes}, "".join(texts)


def stops(text: str) -> dict[int, tuple[int, int]]:
    """Return for each rank after which look and step it stopped."""
    found = re.findall(r"RANK (\d+): stops after look (\d+), step (\d+)", text)
    return {int(rank): (int(look), int(step)) for rank, look, step in found}


def check(mode: str, text: str) -> None:
    found = stops(text)
    assert sorted(found) == list(range(MODES[mode].processes)), text
    assert len(set(found.values())) == 1, text
    assert "ends after" not in text


@pytest.mark.failure(33)
def test_one_process():
    codes, text = outcome("default", "batch 2", "0", "TERM", "2")
    assert codes == {143}, text
    assert stops(text) == {0: (3, 3)}


@pytest.mark.failure(33)
def test_mpirun_with_slurms_signal_in_validation():
    # The sixth step ends the epoch; looks follow in the validation.
    codes, text = outcome("horovod-mpi", "test 1", "0", "USR1", "1")
    assert codes == {143}, text
    check("horovod-mpi", text)
    assert set(stops(text).values()) <= {(look, 6) for look in range(8, 14)}


@pytest.mark.full
@pytest.mark.failure(33)
@pytest.mark.parametrize(
    "words",
    [
        ("batch 2", "1", "TERM", "1"),  # one rank
        ("batch 2", "0,1", "TERM", "3"),  # all ranks, several times
        ("trace", "0,1", "TERM", "2"),  # in the first step
        ("test 1", "1", "TERM", "1"),  # in validation
        ("epoch 1", "0", "USR1", "2"),
        ("begin", "1", "TERM", "1"),  # before any step
    ],
)
@pytest.mark.parametrize("mode", ["mirrored", "multiworker", "horovod-gloo"])
def test_every_moment(mode, words):
    if mode == "mirrored":
        words = (words[0], "0", *words[2:])
    codes, text = outcome(mode, *words)
    # horovodrun has an exit code of its own for every failure.
    assert codes == ({1} if mode == "horovod-gloo" else {143}), text
    check(mode, text)


@pytest.mark.full
@pytest.mark.failure(33)
def test_a_signal_after_the_last_look_ends_the_process_as_it_always_did():
    codes, text = outcome("default", "end", "0", "TERM", "1")
    assert codes == {-signal.SIGTERM}, text
    assert stops(text) == {} and "ends after" not in text


@pytest.mark.full
def test_without_a_signal_nothing_stops():
    codes, text = outcome("multiworker", "never", "0", "TERM", "1")
    assert codes == {0}, text
    assert stops(text) == {}
    assert text.count("ends after look 39") == 2


@pytest.mark.full
@pytest.mark.failure(33)
def test_tfdist_run_passes_its_own_signal_on():
    command = [sys.executable, "-m", "tfdist.launch", "run", "-np", "2"]
    command += [*PROGRAM, "horovod", "batch 4", "0", "STOP", "0"]
    environment = commands(MODES["default"], [])[0][1] | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        for line in process.stdout:
            if "sends itself" in line:
                os.kill(process.pid, signal.SIGTERM)
                break
        text, _ = process.communicate(timeout=SECONDS)
    finally:
        end(process)
    assert "stops after look" in text
