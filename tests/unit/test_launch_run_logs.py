"""The ranks' output goes on to be shown, whatever happens to files and terminals."""

import os
import sys
import threading

import pytest

from tfdist.launch.run.child import STDERR, STDOUT
from tfdist.launch.run.logs import EXITS, Logs


@pytest.fixture
def logs(tmp_path):
    one = Logs(tmp_path, 2)
    yield one
    one.close()


@pytest.fixture
def pipe():
    """Returns both ends of a pipe."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as reader, os.fdopen(writing, "w") as writer:
        yield reader, writer


def test_all_is_kept_and_what_is_for_the_user_is_shown(logs, capfd):
    logs.write(0, STDOUT, b"shown\n", True)
    logs.write(1, STDOUT, b"kept\n", False)
    logs.record({"rank": 1})
    assert capfd.readouterr() == ("shown\n", "")
    assert logs.path(0).read_text() == "shown\n"
    assert logs.path(1).read_text() == "kept\n"
    assert (logs.folder / EXITS).read_text() == '{"rank": 1}\n'


def test_a_full_disk_is_told_once_and_ends_nothing(tmp_path, capfd):
    for name in ("rank-0.log", EXITS):
        (tmp_path / name).symlink_to("/dev/full")
    logs = Logs(tmp_path, 2)
    for _ in range(2):
        logs.write(0, STDOUT, b"shown\n", True)
        logs.record({"rank": 0})
    logs.write(1, STDOUT, b"kept\n", False)
    logs.close()
    out, err = capfd.readouterr()
    assert out == "shown\n" * 2
    assert err.count("\n") == err.count("rank-0.log: [Errno 28]") == 1
    assert logs.path(1).read_text() == "kept\n"


def test_a_reader_that_is_slow_is_waited_for(logs, pipe, monkeypatch):
    reader, writer = pipe
    monkeypatch.setattr(sys, "stdout", writer)
    os.set_blocking(writer.fileno(), False)
    data = os.urandom(1 << 20)  # more than a pipe holds

    def write():
        logs.write(0, STDOUT, data, True)
        writer.close()

    thread = threading.Thread(target=write)
    thread.start()
    assert reader.read() == data
    thread.join()


def test_a_reader_that_has_gone_is_that_of_one_stream(logs, pipe, monkeypatch, capfd):
    reader, writer = pipe
    monkeypatch.setattr(sys, "stdout", writer)
    reader.close()
    logs.write(0, STDOUT, b"lost\n", True)
    logs.write(0, STDERR, b"shown\n", True)
    assert capfd.readouterr().err == "shown\n"
    assert logs.path(0).read_text() == "lost\nshown\n"
