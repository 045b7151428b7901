"""A training goes on with other numbers of ranks, and under other strategies.

The same global batches, each once: up to rounding, the result of one process.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.parallel.modes import MODES, commands
from tests.processes import end

ROOT = Path(__file__).parents[2]
STOP = 5  # in the second epoch, in the middle of an update
SECONDS = 150.0


def train(mode: str, tmp_path: Path, name: str, stop: int | None = None) -> Any:
    """Return what the chief of one job wrote."""
    out = tmp_path / f"{name}.json"
    arguments = ["--strategy", MODES[mode].strategy, "--out", str(out)]
    arguments += ["--directory", str(tmp_path / "checkpoints")]
    if stop is not None:
        arguments += ["--stop", str(stop)]
    log = tmp_path / f"{name}.log"
    with log.open("w") as output:
        processes = [
            subprocess.Popen(
                [module_of(word) for word in command],
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            for command, environment in commands(MODES[mode], arguments)
        ]
        try:
            codes = [process.wait(SECONDS) for process in processes]
        finally:
            for process in processes:
                end(process)
    assert not any(codes), log.read_text()[-3000:]
    return json.loads(out.read_text()), log.read_text()


def module_of(word: str) -> str:
    """Return the word of a command, with our program in the place of the matrix's."""
    return word.replace("tests.parallel.worker", "tests.recovery.elsewhere")


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.failure(36, 37)
@pytest.mark.parametrize(
    "way",
    [
        ("horovod-gloo", "default"),
        ("default", "mirrored"),
        ("mirrored", "multiworker"),
        ("multiworker", "horovod-3"),
        ("horovod-3", "horovod-gloo"),
    ],
    ids=" to ".join,
)
def test_another_job_goes_on(way: tuple[str, str], tmp_path: Path) -> None:
    """What is put back is equal to the bit, what comes out up to rounding."""
    (before, after), whole = way, tmp_path / "whole"
    whole.mkdir()
    expected, _ = train("default", whole, "whole")
    left, _ = train(before, tmp_path, "left", stop=STOP)
    resumed, log = train(after, tmp_path, "resumed")
    assert resumed["resumed"] == STOP
    assert " before, " in log, "nothing says what has changed"
    assert resumed["first"] == left["last"]
    for value, wanted in zip(resumed["last"], expected["last"], strict=True):
        np.testing.assert_allclose(value, wanted, atol=1e-5)
    for name, value in expected["history"].items():
        np.testing.assert_allclose(resumed["history"][name], value, rtol=1e-5)
