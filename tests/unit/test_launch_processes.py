"""Child processes: their PATH, their output, and that none is left behind."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tfdist.launch import processes


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log"


def run(code: str, log: Path, timeout: float = 60.0) -> int:
    return processes.run_logged(
        ["/bin/sh", "-c", code],
        log,
        environment=processes.child_environment(),
        timeout=timeout,
    )


def test_programs_beside_the_interpreter_come_first(monkeypatch, tmp_path):
    for folder in ("here", "there"):
        program = tmp_path / folder / "tool"
        program.parent.mkdir()
        program.touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "here/python"))
    monkeypatch.setenv("PATH", str(tmp_path / "there"))
    assert processes.find_program("tool") == str(tmp_path / "here/tool")
    (tmp_path / "here/tool").unlink()
    assert processes.find_program("tool") == str(tmp_path / "there/tool")
    assert processes.find_program("no-such-tool") is None


def test_output_and_exit_code(log):
    assert run("echo out; echo err >&2; exit 3", log) == 3
    assert run("echo more", log) == 0
    assert log.read_text() == "out\nerr\nmore\n"
    assert processes.tail(log, 1) == "more"


def test_of_a_long_log_only_the_end_is_read(log):
    log.write_bytes(b"first\n" + b"x" * (2 << 20) + b"\nlast\xff\n")
    shown = processes.tail(log, 3)
    assert shown.endswith("x\nlast\ufffd")
    assert len(shown) <= 1 << 20


def test_first_error_of_a_build(log):
    noise = ["Building", "  error: subprocess-exited-with-error", "-- Found g++"]
    error = ["  a.cc:1:2: fatal error: b.h: No such file", "  1 | #include"]
    log.write_text("\n".join([*noise, *error, "Traceback"]))
    assert processes.first_error(log, 2) == "\n".join(error)
    log.write_text("\n".join(noise))
    assert processes.first_error(log, 1) == "-- Found g++"


def test_time_out_ends_grandchildren_in_other_sessions(log):
    started = time.monotonic()
    code = "setsid sleep 300 & echo $!; wait"
    assert run(code, log, timeout=1.0) == processes.TIMED_OUT
    assert time.monotonic() - started < 30
    assert not psutil.pid_exists(int(log.read_text()))


def test_children_that_end_between_two_looks_are_not_waited_for():
    child = subprocess.Popen(["/bin/sh", "-c", ":"])
    child.wait()
    processes._wait([child], seconds=60.0)


def test_a_process_that_nobody_ends_is_seen():
    assert psutil.pid_exists(os.getpid())


def test_time_out_ends_what_ignores_sigterm(log, monkeypatch):
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.5)
    code = "trap '' TERM; echo $$; while :; do sleep 0.2; done"
    assert run(code, log, timeout=1.0) == processes.TIMED_OUT
    assert not psutil.pid_exists(int(log.read_text().split()[0]))
