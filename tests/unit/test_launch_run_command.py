"""Bad input of `tfdist run`: one line, one hint, exit code 2, nothing started."""

import resource
import socket

import pytest

from tests.unit.test_launch_run_plan import plan
from tfdist.launch import main as main_module
from tfdist.launch.run import launcher
from tfdist.launch.run.endings import Ending


@pytest.fixture
def refused(monkeypatch, capsys, tmp_path):
    """Run the command, which has to refuse; return the line that it writes."""

    def start(*arguments):
        raise AssertionError("something was started")

    monkeypatch.setattr(launcher, "launch", start)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("raise SystemExit('it ran')")

    def refuse(*words: str) -> str:
        try:
            code = main_module.main(["run", *words])
        except SystemExit as end:  # argparse
            code = end.code
        written = capsys.readouterr()
        assert code == 2
        assert written.out == ""
        assert written.err.count("\n") == 1
        assert written.err.startswith("tfdist: ") and "HINT: " in written.err
        return written.err

    return refuse


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ([], "no script"),
        (["-m"], "no module"),
        (["none.py"], "'none.py' does not exist"),
        (["."], "'.' does not exist"),
        (["--stratgy", "mirrored", "train.py"], "did you mean --strategy?"),
        (["--strategy", "mirored", "train.py"], "mirored"),
        (["-np", "0", "train.py"], "-np: expected a whole number of at least 1"),
        (["-np", "-2", "train.py"], "received '-2'"),
        (["-np", "two", "train.py"], "received 'two'. HINT: -np 2"),
        (["-np", "5", "-H", "localhost:4", "train.py"], "larger than the 4 slots"),
        (["-H", "a:1,a:1", "train.py"], "stands twice"),
        (["-H", "a:b", "train.py"], "no positive number of slots"),
        (["-H", "localhost:1,b:1", "train.py"], "beside other hosts"),
        (["--config", "none.yaml", "train.py"], "cannot be read"),
        (["--grace", "-1", "train.py"], "no number of seconds"),
        (["--stall-timeout", "nan", "train.py"], "no number of seconds"),
        (["--log-dir", "train.py/logs", "train.py"], "cannot be written"),
        (["--port", "0", "train.py"], "'0' is no port"),
        (["--port", "70000", "train.py"], "no port"),
        (["--port", "2222", "train.py"], "--port is for multiworker"),
        (["--max-restarts", "-1", "train.py"], "no whole number from 0 on"),
        (["--max-preemptions", "inf", "train.py"], "no whole number from 0 on"),
        (["--backoff", "inf", "train.py"], "no number of seconds"),
        (["--min-np", "1", "train.py"], "is for restarts, and there are none"),
        (
            ["--max-restarts", "1", "--min-np", "0", "train.py"],
            "--min-np: expected a whole number of at least 1",
        ),
        (
            ["-np", "2", "--max-restarts", "1", "--min-np", "3", "train.py"],
            "--min-np 3 is more than the 2 replicas",
        ),
    ],
)
def test_it_is_refused(refused, words, problem):
    assert problem in refused(*words)


def test_a_taken_port(refused):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        words = ["-np", "2", "--strategy", "multiworker", "--port", port, "train.py"]
        assert f"Port {port} is in use" in refused(*words)


def test_no_launcher_inside_a_launcher(refused, monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "1")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    assert "mpirun has started this command as rank 1 of 2" in refused("train.py")


def test_elastic_horovod_is_refused(refused, monkeypatch):
    monkeypatch.setenv("HOROVOD_ELASTIC", "1")
    assert "CVE-2024-10190" in refused("train.py")


@pytest.fixture
def started(monkeypatch, tmp_path):
    """What would be started, in a folder with a script; each start fails with 5."""
    starts = []

    def start(plan, others, options, folder, received):
        starts.append((plan, others, options, folder))
        return Ending(5, "it failed", "its log", "details")

    monkeypatch.setattr(launcher, "launch", start)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").touch()
    return starts


def test_what_is_right_is_started(started):
    words = ["-np", "2", "--strategy", "mirrored", "--grace", "1.5", "train.py"]
    assert main_module.main(["run", *words, "-np", "7", "--dry-run"]) == 5
    ((plan, others, options, _),) = started
    assert plan.script == ("train.py", "-np", "7", "--dry-run")
    assert (plan.replicas, others, options.grace) == (2, [], 1.5)
    assert "TFDIST_RESTARTS" not in plan.environment


def test_restarts_are_counted_for_the_script(started, capsys):
    words = ["--max-restarts", "2", "--max-repeats", "0", "--backoff", "0"]
    assert main_module.main(["run", *words, "--log-dir", "logs", "train.py"]) == 5
    assert [plan.environment["TFDIST_RESTARTS"] for plan, *_ in started] == list("012")
    folders = [str(folder) for *_, folder in started]
    assert folders == ["logs/attempt-0", "logs/attempt-1", "logs/attempt-2"]
    assert capsys.readouterr().err.splitlines()[-1] == (
        "tfdist: it failed (no restart is left after 2); details"
    )


def test_a_dry_run_shows_the_restarts(started, capsys):
    words = ["-np", "2", "--strategy", "multiworker", "--max-restarts", "4"]
    words += ["--min-np", "1", "--backoff", "3", "--dry-run", "train.py"]
    assert main_module.main(["run", *words]) == 0
    assert not started
    assert capsys.readouterr().out.splitlines()[-3:] == [
        "restarts: 4 after failures, any number after preemptions; at least 1 of "
        "2 replicas",
        "before a restart: 3 s, doubled up to 60 s while no step is gained; 600 s for "
        "hosts to answer",
        "end: after 3 failures in a row at one step",
    ]


def test_many_ranks_may_have_many_open_files(monkeypatch, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    seen = []

    def look(folder, size):
        seen.append(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        raise KeyboardInterrupt  # enough: nothing has been started

    monkeypatch.setattr(launcher, "Logs", look)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
        for size in (600, 2):
            with pytest.raises(KeyboardInterrupt):
                many = plan(processes=size)
                launcher.launch(many, [], launcher.Options(1.0, 0.0), tmp_path, [])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    # A log and a connection for each; and a limit is never lowered.
    assert seen[0] >= min(1200, hard) and seen[1] == seen[0]
