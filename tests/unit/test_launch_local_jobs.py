"""Small jobs: their commands, their environment, and how they end together."""

import json
import sys
import time

import psutil
import pytest

from tfdist.launch import local_jobs, processes


def shell(folder, number: int, code: str) -> processes.Program:
    log = folder / f"{number}.log"
    return processes.Program(
        ["/bin/sh", "-c", code], log, processes.child_environment()
    )


def test_workers_share_one_cluster(tmp_path, monkeypatch):
    monkeypatch.setenv("HOROVOD_RANK", "3")
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    programs = local_jobs.workers(["-m", "x"], tmp_path, np=3)
    configs = [json.loads(each.environment["TF_CONFIG"]) for each in programs]
    assert [config["task"]["index"] for config in configs] == [0, 1, 2]
    assert configs[0]["cluster"] == configs[1]["cluster"] == configs[2]["cluster"]
    assert len(set(configs[0]["cluster"]["worker"])) == 3
    assert len({each.log for each in programs}) == 3
    # Another job's place is not inherited; the user's own settings are.
    assert "HOROVOD_RANK" not in programs[0].environment
    assert programs[0].environment["OMP_NUM_THREADS"] == "5"
    assert programs[0].environment["TF_NUM_INTRAOP_THREADS"] == "1"


def test_horovodrun_is_told_the_hosts(tmp_path):
    options = {"controller": "gloo", "np": 4}
    (here,) = local_jobs.horovodrun(["-m", "x"], tmp_path, **options)
    assert "-H localhost:4" in " ".join(here.command)
    assert here.command[-3:] == [sys.executable, "-m", "x"]
    (there,) = local_jobs.horovodrun(["-m", "x"], tmp_path, hosts="a:2,b:2", **options)
    assert "-H a:2,b:2" in " ".join(there.command)


def test_all_that_end_well(tmp_path):
    programs = [shell(tmp_path, n, f"echo {n}; sleep 0.{n}") for n in range(3)]
    assert processes.run_together(programs, timeout=60) == [0, 0, 0]
    assert [each.log.read_text() for each in programs] == ["0\n", "1\n", "2\n"]


@pytest.fixture
def short_grace(monkeypatch):
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.5)


def test_one_failure_ends_the_others(tmp_path, short_grace):
    programs = [shell(tmp_path, 0, "echo $$; exec sleep 300")]
    programs.append(shell(tmp_path, 1, "sleep 0.2; exit 3"))
    began = time.monotonic()
    assert processes.run_together(programs, timeout=120) == [-15, 3]
    assert time.monotonic() - began < 60
    assert not psutil.pid_exists(int(programs[0].log.read_text()))


def test_independent_ones_go_on(tmp_path, short_grace):
    programs = [shell(tmp_path, 0, "exit 3"), shell(tmp_path, 1, "sleep 1.5; echo x")]
    codes = processes.run_together(programs, timeout=60, keep_going=True)
    assert codes == [3, 0]
    assert programs[1].log.read_text() == "x\n"


def test_the_time_limit_ends_all_that_run(tmp_path):
    programs = [shell(tmp_path, 0, "exit 0"), shell(tmp_path, 1, "exec sleep 300")]
    assert processes.run_together(programs, timeout=1) == [0, processes.TIMED_OUT]


def test_a_program_that_cannot_start_leaves_none_behind(tmp_path):
    sleeper = shell(tmp_path, 0, "echo $$; exec sleep 300")
    nothing = processes.Program(["/no/such/program"], tmp_path / "1.log", {})
    with pytest.raises(FileNotFoundError):
        processes.run_together([sleeper, nothing], timeout=60)
    started = sleeper.log.read_text()
    assert not started or not psutil.pid_exists(int(started))


def test_a_file_is_its_input(tmp_path):
    source = tmp_path / "source"
    source.write_text("hello\n")
    program = processes.Program(
        ["/bin/cat"], tmp_path / "log", processes.child_environment(), source
    )
    assert processes.run_together([program], timeout=60) == [0]
    assert program.log.read_text() == "hello\n"
