"""`tfdist selftest` and `tfdist doctor` for real: processes, TensorFlow, Horovod.

The unit tests replace the processes by stand-ins; only here do the checks run.
"""

import json
import shutil
import sys
from pathlib import Path

import pytest

from tfdist.launch.processes import Program, child_environment, run_together
from tfdist.launch.selftest.ways import find_ways

ROOT = Path(__file__).parents[2]
BROKEN = """
import sys
from tfdist.launch import main
from tfdist.launch.selftest import command, runner, ways
command.find_ways = lambda np: [ways.find_ways(np)[2]]  # over Gloo
runner.PROGRAM = ("-m", "tests.integration.broken_selftest")
sys.exit(main.main(["selftest", "--strategy", "horovod"]))
"""

needs_horovod = pytest.mark.skipif(
    bool(find_ways(2)[2].missing), reason=f"{find_ways(2)[2].missing}"
)


def run(folder: Path, *words: str, seconds: float = 280.0) -> tuple[int, str]:
    """Runs Python from the checkout; returns its exit code and what it printed."""
    environment = child_environment({"PYTHONPATH": str(ROOT)})
    program = Program([sys.executable, *words], folder / "log", environment)
    (code,) = run_together([program], timeout=seconds)
    return code, program.log.read_text()


@needs_horovod
def test_horovod_passes(tmp_path):
    words = ("-m", "tfdist.launch", "selftest", "-np", "2", "--strategy", "horovod")
    code, output = run(tmp_path, *words)
    assert code == 0, output
    assert output.count(" pass (") in (5, 10)  # over Gloo, and over MPI where built
    assert "FAILED" not in output and "checks passed on 2 ranks" in output


@needs_horovod
def test_a_broken_collective_fails(tmp_path):
    code, output = run(tmp_path, "-c", BROKEN)
    assert code == 1, output
    shutil.rmtree(output.split("logs are in ")[1].strip())
    assert "collectives  FAILED: rank " in output
    assert "the sum of 1 numbers: expected 3 at 0, received 3.003" in output


@pytest.mark.full
@pytest.mark.timeout(600)
def test_every_strategy_passes(tmp_path):
    words = ("-m", "tfdist.launch", "selftest", "-np", "3")
    code, output = run(tmp_path, *words, seconds=580.0)
    assert code == 0, output
    for way in find_ways(3):
        reports = [line for line in output.splitlines() if line.startswith(way.title)]
        assert len(reports) == (1 if way.missing else 5)


def test_doctor_describes_this_machine(tmp_path):
    import tensorflow as tf

    words = ("-m", "tfdist.launch", "doctor", "-H", "localhost:1", "--json")
    code, output = run(tmp_path, *words)
    found = json.loads(output[output.index("{") :])
    assert code == (0 if found["healthy"] else 3), output
    assert tf.__version__ in found["here"]["tensorflow"].values()
    assert found["here"]["tensorflow_error"] == ""
    assert found["checks"]["tensorflow"]["status"] == "ok"
    assert found["checks"]["reachable"]["status"] == "ok"
    assert found["hosts"][0]["facts"] == found["here"]
