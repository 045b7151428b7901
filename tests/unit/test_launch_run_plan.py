"""From arguments to a plan: every decision, without starting anything."""

import json
from pathlib import Path

import pytest

from tfdist.launch.arguments import Host
from tfdist.launch.errors import NOT_STARTED, CommandError
from tfdist.launch.run.describe import describe
from tfdist.launch.run.hosts import assign
from tfdist.launch.run.machine import Machine, count_gpus
from tfdist.launch.run.plan import Plan, Request, make_plan

SCRIPT = ("train.py", "--epochs", "2")


def machine(**facts) -> Machine:
    here = {"gpus": 0, "horovod": True, "mpirun": True, "ssh": True, "mpi_prefix": None}
    names = frozenset({"localhost", "127.0.0.1", "here"})
    return Machine(**{**here, "own_names": names, **facts})


def plan(facts=None, environ=None, ports=None, **request) -> Plan:
    return make_plan(
        Request(SCRIPT, **request), machine(**(facts or {})), environ or {}, ports or {}
    )


@pytest.mark.parametrize(
    ("facts", "request_", "expected"),
    [
        ({}, {}, "default"),
        ({}, {"processes": 2}, "horovod"),
        ({"horovod": False}, {"processes": 2}, "multiworker"),
        ({"gpus": 2}, {}, "mirrored"),
        ({"gpus": 2}, {"processes": 2}, "mirrored"),
        ({"gpus": 1}, {"processes": 2}, "horovod"),
        ({}, {"processes": 1, "controller": "mpi"}, "horovod"),
        ({}, {"hosts": (Host("a", 1), Host("b", 1))}, "horovod"),
        ({"gpus": 2}, {"hosts": (Host("a", 1), Host("b", 1))}, "horovod"),
    ],
)
def test_auto(facts, request_, expected):
    chosen = plan(facts, **request_)
    assert chosen.strategy == expected
    assert chosen.reason


def test_mirrored_is_one_process():
    chosen = plan(processes=3, strategy="mirrored")
    assert chosen.size == 1 and chosen.replicas == 3
    assert chosen.environment == {"TFDIST_STRATEGY": "mirrored", "TFDIST_REPLICAS": "3"}
    assert chosen.ranks[0].devices == "CPU:0, CPU:1, CPU:2"


def test_multiworker_has_one_tf_config_a_rank():
    hosts = (Host("a", 2), Host("b", 2))
    ports = {"a": [1001, 1002], "b": [2001, 2002]}
    chosen = plan(processes=3, hosts=hosts, strategy="multiworker", ports=ports)
    configs = [json.loads(rank.environment["TF_CONFIG"]) for rank in chosen.ranks]
    addresses = ["a:1001", "a:1002", "b:2001"]
    assert [config["cluster"] for config in configs] == [{"worker": addresses}] * 3
    assert [config["task"]["index"] for config in configs] == [0, 1, 2]
    assert [rank.local_rank for rank in chosen.ranks] == [0, 1, 0]


def test_horovodrun_gets_its_settings():
    chosen = plan(
        processes=2,
        hosts=(Host("a", 2), Host("b", 2)),
        config=Path("x.yaml"),
        settings={"controller": "MPI", "params": {"cycle_time_ms": 2}},
    )
    line = " ".join(chosen.command)
    assert line.startswith("horovodrun -np 2 -H a:2,b:2 --mpi --disable-cache ")
    assert "--config-file x.yaml" in line
    assert line.endswith("-m tfdist.launch.run.rank")
    assert "setting: params.cycle_time_ms = 2" in describe(chosen, {})
    other = plan(controller="gloo", settings={"controller": "mpi"}, processes=2)
    assert "--gloo" in other.command  # the command line wins over the file


def test_open_mpi_finds_its_daemon_on_other_hosts():
    hosts = (Host("here", 1), Host("b", 1))
    facts = {"mpi_prefix": "/venv"}
    chosen = plan(facts, hosts=hosts, controller="mpi")
    assert chosen.environment["OMPI_MCA_orte_launch_agent"] == "/venv/bin/orted"
    assert chosen.environment["OPAL_PREFIX"] == "/venv"
    own = {"OMPI_MCA_orte_launch_agent": "mine"}
    for other in (
        plan(facts, own, hosts=hosts, controller="mpi"),
        plan(facts, hosts=hosts, controller="gloo"),
        plan(facts, processes=2, controller="mpi"),
    ):
        assert "OMPI_MCA_orte_launch_agent" not in other.environment


def test_ranks_are_not_quicker_to_give_up_than_the_launcher():
    name = "TFDIST_STALL_TIMEOUT"
    assert name not in plan(processes=2).environment
    patient = {"processes": 2, "stall_timeout": 3600.0}
    assert float(plan(**patient).environment[name]) > 3600
    assert name not in plan({}, {name: "5"}, **patient).environment
    # 0 is any time, for the ranks too.
    assert plan(processes=2, stall_timeout=0.0).environment[name] == "inf"


def test_variables_of_other_launches_are_taken_away():
    chosen = plan({}, {"TF_CONFIG": "{}", "HOME": "/"}, processes=2)
    assert chosen.removed == ("TF_CONFIG",)
    assert "without TF_CONFIG" in describe(chosen, {})


def test_only_what_differs_today_is_shown():
    chosen = plan(processes=2, strategy="multiworker")
    assert "environment: TFDIST_STRATEGY=multiworker\n" in describe(chosen, {})
    today = {"TFDIST_STRATEGY": "multiworker"}
    assert "environment: as it is\n" in describe(chosen, today)


@pytest.mark.parametrize(
    ("facts", "request_", "problem"),
    [
        ({}, {"processes": 5, "hosts": (Host("a", 4),)}, "-np 5 is larger than the 4"),
        ({"horovod": False}, {"strategy": "horovod"}, "Horovod is not built"),
        ({"mpirun": False}, {"controller": "mpi"}, "mpirun was not found"),
        ({"ssh": False}, {"hosts": (Host("a", 2),)}, "ssh was not found"),
        ({}, {"strategy": "mirrored", "hosts": (Host("a", 2),)}, "one process"),
        ({}, {"strategy": "mirrored", "controller": "mpi"}, "--controller is for Hor"),
        ({}, {"strategy": "multiworker", "config": Path("x")}, "--config is for Hor"),
        ({"gpus": 2}, {"strategy": "mirrored", "processes": 3}, "more than the 2 GPUs"),
        (
            {"gpus": 2},
            {"strategy": "mirrored", "hosts": (Host("localhost", 4),)},
            "4 replicas are more than the 2 GPUs",
        ),
    ],
)
def test_what_cannot_be_is_refused(facts, request_, problem):
    with pytest.raises(CommandError, match=problem) as caught:
        plan(facts, **request_)
    assert caught.value.exit_code == NOT_STARTED
    assert "HINT: " in str(caught.value) and "\n" not in str(caught.value)


def test_ranks_fill_host_by_host():
    assert assign([Host("a", 2), Host("b", 2)], 3) == [("a", 0), ("a", 1), ("b", 0)]


def test_gpus_are_those_that_cuda_shows(tmp_path, monkeypatch):
    from tfdist.launch.run import machine as module

    monkeypatch.setattr(module, "_tensorflow_distribution", lambda: "tensorflow")
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / name).mkdir()
    assert count_gpus({}, tmp_path) == 2
    assert count_gpus({"CUDA_VISIBLE_DEVICES": "1"}, tmp_path) == 1
    assert count_gpus({"CUDA_VISIBLE_DEVICES": "-1"}, tmp_path) == 0
    assert count_gpus({"CUDA_VISIBLE_DEVICES": ""}, tmp_path) == 0
    assert count_gpus({"CUDA_VISIBLE_DEVICES": "0,-1,1"}, tmp_path) == 1
    assert count_gpus({}, tmp_path / "none") == 0
    monkeypatch.setattr(module, "_tensorflow_distribution", lambda: "tensorflow-cpu")
    assert count_gpus({}, tmp_path) == 0
