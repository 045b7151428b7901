"""`tfdist doctor`, `run` and `estimate` about hosts: what they find and foretell."""

import importlib.metadata
import json
import re
import sys

import pytest

from tests.hosts import jobs
from tests.hosts.bed import hosts
from tfdist.launch.estimate.cost import Link, ring_seconds

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]
TFDIST = (sys.executable, "-m", "tfdist.launch")
NUMBERS = 5_000_000  # float32: many times what a switch's buffers hold
RATE = 100e6  # bits per second: the processors are idle most of the time
horovod = pytest.mark.skipif(not jobs.HAS_HOROVOD, reason="tfdist horovod install")


def tfdist(bed, *words):
    done = bed.run("h1", [*TFDIST, *words], jobs.ENVIRONMENT, seconds=300)
    assert done.code is not None, done.output
    return done


def failed_checks(bed) -> list[str]:
    """Return the names of the checks that fail about the bed's hosts."""
    done = tfdist(bed, "doctor", "-H", bed.slots(), "--json")
    report = json.loads(done.output[done.output.index("{") :])
    found = report["checks"].items()
    failed = [name for name, check in found if check["status"] == "failed"]
    assert done.code == (3 if failed else 0)
    return failed


def give_another_tensorflow(bed, name: str) -> None:
    """Let a host, and no other, believe that its TensorFlow is an older one."""
    distribution = next(
        one
        for one in importlib.metadata.distributions()
        if one.name.replace("_", "-") in ("tensorflow", "tensorflow-cpu")
    )
    (real,) = [
        distribution.locate_file(path)
        for path in distribution.files
        if path.name == "METADATA" and len(path.parts) == 2
    ]
    text = re.sub(r"(?m)^Version: .*$", "Version: 2.18.1", real.read_text(), count=1)
    other = bed.folder / "METADATA"
    other.write_text(text)
    done = bed.run(name, ["mount", "--bind", other, real])
    assert done.code == 0, done.output


def test_healthy_hosts_and_the_faults_of_others(bed):
    assert failed_checks(bed) == []
    bed.refuse("h2")
    assert failed_checks(bed) == ["reachable"]


def test_doctor_finds_a_loopback_name_and_other_interfaces():
    with hosts(2, loopback_names=["h2"], interfaces={"h2": "net7"}) as bed:
        assert failed_checks(bed) == ["interfaces", "own names"]


def test_another_tensorflow_on_one_host(bed):
    give_another_tensorflow(bed, "h2")
    assert failed_checks(bed) != []
    done = tfdist(bed, "run", "-np", "2", "-H", bed.slots(), jobs.TRAINING[1])
    assert done.code == 2, done.output
    assert "h2 has TensorFlow 2.18.1" in done.output
    assert "HINT: " in done.output


@horovod
@pytest.mark.parametrize("count", [2, 3, 4])
def test_the_time_on_the_wire_is_as_predicted(count):
    """From the link's rate alone, within a quarter."""
    words = ["horovodrun", "--disable-cache", "--gloo", "-np", str(count), "-H"]
    with hosts(count, rate=f"{RATE:.0f}bit") as bed:
        program = (sys.executable, "tests/hosts/time_all_reduce.py", str(NUMBERS))
        done = bed.run(
            "h1", [*words, bed.slots(), *program], jobs.ENVIRONMENT, seconds=400
        )
    assert done.code == 0, done.output
    measured = float(done.output.rpartition("median seconds: ")[2].split()[0])
    predicted = ring_seconds(4.0 * NUMBERS, count, Link(50e-6, RATE))
    print(f"{count} hosts: predicted {predicted:.2f} s, measured {measured:.2f} s")
    assert abs(predicted - measured) <= 0.25 * measured
