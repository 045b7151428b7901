"""The pytest plugin: several ranks, one report, and no rank waits for ever.

Real launches by mpirun, because what is tested is what happens to processes; mpi4py
is the collective, so no TensorFlow has to be imported.
"""

import importlib.metadata
import importlib.util
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tfdist.launch.horovod_proof import PROOF_ENVIRONMENT
from tfdist.launch.processes import (
    TIMED_OUT,
    child_environment,
    find_program,
    run_logged,
)

ROOT = Path(__file__).parents[2]
HEADER = """
import os, sys, time
from mpi4py import MPI
world = MPI.COMM_WORLD
rank = world.Get_rank()

"""
# An installed tfdist is loaded by its entry point, a checkout by its name.
INSTALLED = importlib.metadata.entry_points(group="pytest11", name="tfdist")
PLUGIN = () if INSTALLED else ("-p", "tfdist.testing.plugin")

ranks = pytest.mark.skipif(
    find_program("mpirun") is None or importlib.util.find_spec("mpi4py") is None,
    reason="no mpirun or no mpi4py: pip install 'tfdist[mpi]'",
)


class Outcome:
    """The end of a run of pytest on two ranks."""

    def __init__(self, code: int, output: str, seconds: float, report: Path):
        self.code = code
        self.output = output
        self.seconds = seconds
        self.cases = {}
        if report.exists():
            for case in ElementTree.parse(report).iter("testcase"):
                bad = [part for part in case if part.tag in ("failure", "error")]
                self.cases[case.get("name")] = bad[0].text if bad else ""


def on_two_ranks(folder: Path, tests: str, *options: str) -> Outcome:
    """Runs pytest under mpirun on a file with the tests."""
    (folder / "test_it.py").write_text(HEADER + tests)
    report, log = folder / "report.xml", folder / "log"
    command = ["mpirun", "-np", "2", "--bind-to", "none", sys.executable, "-m"]
    command += ["pytest", *PLUGIN, "--color=no", "-p", "no:cacheprovider"]
    command += [f"--junitxml={report}", f"--rootdir={folder}", *options]
    command += [str(folder / "test_it.py")]
    began = time.monotonic()
    code = run_logged(
        command,
        log,
        environment=child_environment(
            PROOF_ENVIRONMENT
            # With CI set, pytest's summary shows headlines whole.
            | {"PYTHONPATH": str(ROOT), "COLUMNS": "200", "CI": "true"}
            # Ranks that wait would otherwise keep their cores from those that work.
            | {"OMPI_MCA_mpi_yield_when_idle": "1"}
        ),
        timeout=120,
    )
    seconds = time.monotonic() - began
    assert code != TIMED_OUT, log.read_text()
    return Outcome(code, log.read_text(), seconds, report)


@ranks
def test_one_report_of_both_ranks(tmp_path):
    tests = """
def test_sum():
    assert world.allreduce(rank + 1) == 3

def test_wrong_on_rank_1():
    print("what rank", rank, "has seen")
    assert rank == 0, "rank 1 has another opinion"

def test_goes_on():
    assert world.allreduce(1) == 2
"""
    done = on_two_ranks(tmp_path, tests)
    assert done.code == 1
    assert done.output.count("collected 3 items") == 1
    assert done.output.count("1 failed, 2 passed") == 1
    assert done.output.count("E       AssertionError: rank 1 has another opinion") == 1
    assert done.output.count("rank 1 of 2 failed in call") == 2  # and in the summary
    assert done.output.count("what rank 1 has seen") == 1
    assert "what rank 0 has seen" not in done.output
    assert list(done.cases) == ["test_sum", "test_wrong_on_rank_1", "test_goes_on"]
    assert "another opinion" in done.cases["test_wrong_on_rank_1"]


@ranks
@pytest.mark.full
def test_all_pass(tmp_path):
    done = on_two_ranks(tmp_path, "def test(): assert world.allreduce(1) == 2\n")
    assert done.code == 0, done.output
    assert done.output.count("1 passed") == 1


@ranks
@pytest.mark.parametrize("waiting", [0, pytest.param(1, marks=pytest.mark.full)])
def test_a_rank_that_waits_for_a_failed_one_is_ended(tmp_path, waiting):
    tests = f"""
def test_stuck():
    assert rank == {waiting}, "this rank never comes"
    world.Barrier()

def test_never_run():
    pass
"""
    done = on_two_ranks(tmp_path, tests, "--tfdist-grace=2")
    assert done.code == 1
    assert done.seconds < 100  # 2 seconds of grace; all else is a busy machine
    assert done.output.count("E       AssertionError: this rank never comes") == 1
    assert f"rank {waiting} did not end" in done.output
    assert f"rank {1 - waiting} of 2 failed in call" in done.cases["test_stuck"]
    assert "test_never_run" not in done.cases


@ranks
def test_the_time_limit_shows_every_ranks_stacks(tmp_path):
    tests = """
def place_of_rank_0(): world.Barrier()
def place_of_rank_1(): time.sleep(600)

def test_slow():
    place_of_rank_0() if rank == 0 else place_of_rank_1()
"""
    done = on_two_ranks(tmp_path, tests, "--tfdist-timeout=3")
    assert done.code == 1
    for rank in (0, 1):
        assert f"rank {rank}: time is up" in done.output
        assert f"in place_of_rank_{rank}" in done.output
    assert "within 3 s" in done.cases["test_slow"]


@ranks
@pytest.mark.full
@pytest.mark.parametrize(
    ("tests", "code", "words"),
    [
        # Another test on each rank, in the list and as the run goes on.
        ("exec(f'def test_{rank}(): pass')", 1, "the ranks are out of step"),
        ("def test(): sys.exit(3) if rank else world.Barrier()", 1, "rank 1 of 2"),
        ("assert rank == 0, 'rank 1 cannot import'", 2, "rank 1 cannot import"),
        ("assert False, 'nobody can import'", 2, "nobody can import"),
        ("", 5, "no tests ran"),
    ],
)
def test_ranks_that_cannot_agree(tmp_path, tests, code, words):
    done = on_two_ranks(tmp_path, tests, "--tfdist-grace=2")
    assert done.code == code, done.output
    assert words in done.output


@ranks
@pytest.mark.full
def test_a_rank_that_never_imports_mpi_holds_the_others_lock(tmp_path):
    """MPI_Init waits for all ranks, with the interpreter locked: no thread can help."""
    (tmp_path / "conftest.py").write_text(
        "import os, time\n"
        "def pytest_collection(session):\n"
        "    time.sleep(99 * int(os.environ['OMPI_COMM_WORLD_RANK']))\n"
    )
    done = on_two_ranks(tmp_path, "def test(): pass", "--tfdist-timeout=2")
    assert done.code == 1
    assert "Timeout (" in done.output, "faulthandler has the last word"


@ranks
@pytest.mark.full
def test_a_failing_fixture_and_the_first_failure_only(tmp_path):
    tests = """
import pytest
@pytest.fixture(scope="module")
def data():
    assert rank == 1, "rank 0 has no data"
    yield
def test_needs_data(data):
    world.Barrier()
def test_not_reached():
    pass
"""
    done = on_two_ranks(tmp_path, tests, "--tfdist-grace=2", "-x")
    assert done.code == 1
    assert "rank 0 of 2 failed in setup" in done.output


def pytest_alone(folder: Path, *words: str, **variables: str):
    """Runs pytest in one process on a test that passes."""
    (folder / "test_it.py").write_text(
        "import sys\n"
        "heavy = {'tensorflow', 'tfdist.testing.lockstep'}\n"
        "def test(): assert not heavy & {*sys.modules}"
    )
    command = [sys.executable, "-m", "pytest", *PLUGIN, "-p", "no:cacheprovider"]
    return subprocess.run(
        [*command, f"--rootdir={folder}", *words, str(folder)],
        env=child_environment({"PYTHONPATH": str(ROOT), **variables}),
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_it_stays_out_of_one_process(tmp_path):
    done = pytest_alone(tmp_path)
    assert done.returncode == 0, done.stdout
    assert "lock-step" not in done.stdout


@pytest.mark.parametrize(
    ("words", "variables", "hint"),
    [
        (("--tfdist-timeout=-1",), {"HOROVOD_SIZE": "2"}, "--tfdist-timeout=60"),
        ((), {"HOROVOD_SIZE": "0"}, "unset HOROVOD_SIZE"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, words, variables, hint):
    done = pytest_alone(tmp_path, *words, **{"HOROVOD_RANK": "0", **variables})
    assert done.returncode == 4
    assert f"HINT: Let the launcher set it, or `{hint}`" in done.stderr or (
        f"HINT: {hint}" in done.stderr
    )
