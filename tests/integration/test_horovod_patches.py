"""What tfdist changes in Horovod, as two ranks see it."""

import re
import sys
from pathlib import Path

import pytest

from tfdist.launch.horovod_proof import PROOF_ENVIRONMENT
from tfdist.launch.processes import child_environment, find_program, run_logged

pytest.importorskip(
    "horovod.runner", reason="Horovod is not built: tfdist horovod install"
)


def woken(log: Path, *options: str) -> list[int]:
    """Returns how often the threads of each rank woke up in a second."""
    script = Path(__file__).with_name("patched_ranks.py")
    exit_code = run_logged(
        [
            *(find_program("horovodrun"), "-np", "2", "--gloo"),
            *(sys.executable, script, *options),
        ],
        log,
        environment=child_environment(PROOF_ENVIRONMENT),
        timeout=120,
    )
    output = log.read_text()
    assert exit_code == 0, output
    numbers = [int(number) for number in re.findall(r"woken (\d+) times", output)]
    assert len(numbers) == 2, output
    return numbers


def test_threads_rest_while_nothing_is_queued_and_sums_are_right(tmp_path):
    idle = woken(tmp_path / "log")
    # The control: with process sets, Horovod's own cycle of a millisecond.
    busy = woken(tmp_path / "control", "--process-sets")
    assert 2 * max(idle) < min(busy), (idle, busy)
