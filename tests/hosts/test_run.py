"""`tfdist run -H`: trains on several hosts, and says what is wrong before it starts."""

import shutil
import sys
import time

import pytest

from tests.hosts import jobs
from tests.hosts.bed import ROOT, hosts

pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]
BOUND = 240  # seconds; a busy machine takes most of them to import TensorFlow
REFUSED = 60  # seconds until an error that comes before anything is started
SCRIPT = jobs.TRAINING[1]
STRATEGIES = {
    "gloo": ("--strategy", "horovod", "--controller", "gloo"),
    "mpi": ("--strategy", "horovod", "--controller", "mpi"),
    "multiworker": ("--strategy", "multiworker"),
}


@pytest.fixture
def bare_bed():
    """Two hosts whose shells do not find this environment's programs."""
    with hosts(2, bare=True) as two:
        yield two


def run(bed, *options, seconds=BOUND, where="h1:1,h2:1"):
    """Run `tfdist run` on h1, in a folder whose name has to be quoted."""
    logs = bed.folder / "logs"
    folder = bed.folder / "a folder"
    folder.mkdir(exist_ok=True)
    shutil.copy(ROOT / SCRIPT, folder / "train.py")
    command = [sys.executable, "-m", "tfdist.launch", "run", "-np", "2", "-H", where]
    command += ["--log-dir", logs, *options, "train.py"]
    return bed.run("h1", command, jobs.ENVIRONMENT, seconds, folder)


def said_by_all(bed) -> str:
    return "".join(path.read_text() for path in (bed.folder / "logs").rglob("*.log"))


@pytest.mark.parametrize("name", STRATEGIES)
def test_it_trains_on_two_hosts(bare_bed, name):
    done = run(bare_bed, *STRATEGIES[name])
    assert done.code == 0, done.output
    assert "rank 0 of 2" in done.output
    assert "rank 1 of 2" not in done.output, "the terminal is rank 0's"
    assert len(jobs.digests(said_by_all(bare_bed))) == 1


def test_it_trains_on_three_hosts():
    with hosts(3, bare=True) as bed:
        command = [sys.executable, "-m", "tfdist.launch", "run", "-H", bed.slots()]
        command += ["--log-dir", bed.folder / "logs", SCRIPT]
        done = bed.run("h1", command, jobs.ENVIRONMENT, BOUND)
        assert done.code == 0, done.output
        assert len(jobs.digests(said_by_all(bed), ranks=3)) == 1


def refused(done, *words):
    """The job was not started, and one line says why."""
    assert done.code == 2, done.output
    (line,) = [one for one in done.output.splitlines() if one.startswith("tfdist: ")]
    for word in (*words, "HINT: "):
        assert word in line
    assert "Traceback" not in done.output
    assert done.seconds < REFUSED


def test_a_host_that_nobody_knows(bare_bed):
    refused(run(bare_bed, where="h1:1,nohost:1"), "nohost", "resolve")


def test_an_unreachable_host(bare_bed):
    bare_bed.cut("h2")
    refused(run(bare_bed), "h2", "ssh")


def test_a_wrong_key(bare_bed):
    bare_bed.refuse("h2")
    refused(run(bare_bed), "h2", "Permission denied")


def test_a_host_whose_own_name_is_a_loopback_address():
    with hosts(2, loopback_names=["h2"], bare=True) as bed:
        refused(run(bed, *STRATEGIES["gloo"]), "h2", "127.0.1.1")
        done = run(bed, *STRATEGIES["mpi"])
    assert done.code == 0, done.output


@pytest.mark.parametrize("name", ["gloo", "multiworker"])
def test_interfaces_of_different_names(name):
    """It trains, or says what is wrong; it does not wait for minutes."""
    with hosts(2, interfaces={"h2": "net7"}, bare=True) as bed:
        done = run(bed, *STRATEGIES[name])
    if done.code != 0:
        refused(done, "interface", "net7")


@pytest.mark.parametrize("name", ["gloo", "multiworker"])
def test_a_host_lost_in_mid_training(bare_bed, name):
    command = [sys.executable, "-m", "tfdist.launch", "run", "-np", "2", "-H"]
    command += ["h1:1,h2:1", "--grace", "5", *STRATEGIES[name], SCRIPT, "200000"]
    job = bare_bed.start("h1", command, jobs.ENVIRONMENT)
    lines = []
    while not any("step 40" in line for line in lines):
        lines.append(job.stdout.readline())
        assert lines[-1], "".join(lines)
    bare_bed.lose("h2")
    began = time.monotonic()
    output, _ = job.communicate(timeout=BOUND)
    assert job.returncode not in (0, 2), output
    # TensorFlow's own error, which may come first, names the worker's task.
    assert any(name in output.lower() for name in ("h2", "rank 1", "task:1")), output
    assert time.monotonic() - began < BOUND
