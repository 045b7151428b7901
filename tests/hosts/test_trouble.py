"""What horovodrun and mpirun do when something is wrong with a host.

They are not ours: this records what they say and how long they take, which is what
`tfdist run -H` has to be better than. The last test is ours: a host that is lost.
"""

import sys
import time

import pytest

from tests.hosts import jobs
from tests.hosts.bed import hosts

pytestmark = [
    pytest.mark.full,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not jobs.HAS_HOROVOD, reason="tfdist horovod install"),
]
GLOO = (*jobs.HOROVODRUN, "--gloo")
BOUND = 240  # seconds; a busy machine takes most of them to import TensorFlow


def run(bed, *command, seconds=BOUND):
    done = bed.run("h1", command, jobs.ENVIRONMENT, seconds=seconds)
    assert done.code is not None, f"no end after {seconds} s: {done.output}"
    return done


def test_a_host_that_nobody_knows(bed):
    command = [word.replace("h2", "nohost") for word in GLOO]
    done = run(bed, *command, "hostname")
    assert done.code == 1
    assert "Could not resolve hostname nohost" in done.output


def test_an_unreachable_host(bed):
    bed.cut("h2")
    done = run(bed, *GLOO, "hostname")
    assert done.code == 1
    assert "ssh: connect to host h2 port 22" in done.output


def test_a_wrong_key(bed):
    bed.refuse("h2")
    done = run(bed, *GLOO, "hostname")
    assert done.code == 1
    assert "root@h2: Permission denied (publickey)" in done.output
    if jobs.HAS_MPI:
        done = run(bed, "mpirun", "-np", "2", "-H", "h1:1,h2:1", "hostname")
        assert done.code not in (0, None)
        assert "root@h2: Permission denied (publickey)" in done.output


def test_interfaces_of_different_names():
    with hosts(2, interfaces={"h2": "net7"}) as bed:
        done = run(bed, *GLOO, "hostname")
    assert done.code == 1
    assert "interface with the same name across all of the hosts" in done.output


def test_a_host_whose_own_name_is_a_loopback_address():
    """Debian's default: Gloo tells the others to find this host at 127.0.1.1."""
    proof = (sys.executable, "-m", "tfdist.launch.horovod_proof")
    with hosts(2, loopback_names=["h1", "h2"]) as bed:
        done = run(bed, *GLOO, *proof)
    assert done.code == 1
    assert "Connection refused" in done.output


def test_a_host_lost_in_mid_training(bed):
    job = bed.start("h1", [*GLOO, *jobs.TRAINING, "200000"], jobs.ENVIRONMENT)
    lines = []
    while not any("step 40" in line for line in lines):
        lines.append(job.stdout.readline())
        assert lines[-1], "".join(lines)
    bed.lose("h2")
    began = time.monotonic()
    output, _ = job.communicate(timeout=BOUND)
    assert job.returncode == 1
    assert "RankLostError" in output
    assert "rank 1 was lost" in output.lower()
    print(f"ended {time.monotonic() - began:.0f} s after the loss")
