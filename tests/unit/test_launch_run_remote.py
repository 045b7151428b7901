"""What is wrong with other hosts is said before a job starts there."""

import shlex
import time

import psutil
import pytest

from tfdist.launch.errors import NOT_STARTED, CommandError
from tfdist.launch.run import remote
from tfdist.launch.run.probe import MARK, facts, versions
from tfdist.launch.run.remote import (
    ask_all,
    ask_each,
    check_all,
    exported,
    remote_command,
)

HERE = {"Python": "3.11", "TensorFlow": "2.21.0", "Horovod": "0.28.1"}


def host(**other):
    right = {"versions": HERE, "name": "n", "addresses": ["10.0.0.1"], "script": True}
    return right | {"interfaces": ["eth0"]} | other


def test_equal_hosts_are_right():
    check_all({"a": host(), "b": host(addresses=["10.0.0.2"])}, HERE, controller="gloo")


@pytest.mark.parametrize(
    ("other", "problem", "hint"),
    [
        (
            {"versions": HERE | {"TensorFlow": "2.18.1"}},
            "b has TensorFlow 2.18.1",
            "same",
        ),
        ({"versions": {}}, "b has Python missing", "same versions"),
        ({"script": False}, "script is not on b", "shared folder"),
        ({"addresses": ["127.0.1.1"]}, "own name 'n' to 127.0.1.1", "/etc/hosts"),
        ({"addresses": []}, "own name 'n' to nothing", "--controller mpi"),
    ],
)
def test_a_wrong_host_is_named(other, problem, hint):
    with pytest.raises(CommandError) as caught:
        check_all({"a": host(), "b": host(**other)}, HERE, controller="gloo")
    said, _, helped = str(caught.value).partition(" HINT: ")
    assert problem in said and hint in helped
    assert caught.value.exit_code == NOT_STARTED


def test_only_gloo_needs_the_hosts_own_name():
    for controller in ("mpi", None):
        check_all({"b": host(addresses=["127.0.1.1"])}, HERE, controller=controller)


@pytest.mark.parametrize("controller", ["gloo", "mpi"])
def test_horovodrun_needs_one_name_of_the_interfaces(controller):
    found = {"a": host(), "b": host(interfaces=["net7", "net8"])}
    with pytest.raises(CommandError, match="eth0 on a, net7 and net8 on b"):
        check_all(found, HERE, controller=controller)
    check_all(found, HERE, controller=None)
    both = {"a": host(), "b": host(interfaces=["net7", "eth0"])}
    check_all(both, HERE, controller=controller)


def test_facts_of_this_host():
    found = facts([__file__])
    assert found["script"] and found["versions"] == versions()
    assert versions().keys() == {"Python", "TensorFlow", "Keras", "Horovod", "tfdist"}
    assert not facts(["/none.py"])["script"]
    assert facts(["-m", "pytest"])["script"]


def test_words_arrive_as_they_are(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/a b")
    *ssh, line = remote_command("host", "-m", "x", "it's; rm")
    assert ssh[0] == "ssh" and ssh[-2:] == ["--", "host"]
    assert "BatchMode=yes" in ssh
    words = shlex.split(line.partition("&& exec ")[2])
    assert words[:2] == ["env", "PYTHONPATH=/a b"]
    assert words[3:] == ["-m", "x", "it's; rm"]


@pytest.fixture
def ssh(monkeypatch, tmp_path):
    """Makes a shell script the ssh that is found."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def become(script: str) -> None:
        (tmp_path / "ssh").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "ssh").chmod(0o755)

    return become


def test_hosts_are_asked_and_answer_in_their_order(ssh):
    # A login shell greets in an encoding of its own; the question is sent back.
    ssh(f"printf 'gr\\374sse\\n'; read -r line; echo '{MARK}'\"$line\"")
    questions = [{"number": number} for number in range(3)]
    assert ask_all(["a", "b", "c"], questions) == questions


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("echo 'no r\\374oute' >&2; exit 255", "b cannot be reached by ssh: no r"),
        ("echo welcome; echo bad >&2; exit 1", "tfdist cannot be started on b: bad"),
        (f"echo '{MARK}{{}}'; exit 1", "tfdist cannot be started on b"),
        ("true", "started on b: it said nothing"),
    ],
)
def test_what_keeps_a_host_from_answering(ssh, script, problem):
    ssh(script)
    with pytest.raises(CommandError, match=problem):
        ask_all(["b"], [{}])


def test_a_silent_host_is_left(ssh, monkeypatch):
    monkeypatch.setattr(remote, "PROBE_SECONDS", 0.4)
    ssh("exec sleep 60")
    with pytest.raises(CommandError, match="b did not answer over ssh within 0 s"):
        ask_all(["b"], [{}])


def test_after_a_signal_no_answer_is_waited_for(ssh, tmp_path):
    ssh(f"echo $$ > {tmp_path}/pid; exec sleep 300")

    class Received(list):
        def __bool__(self):  # a signal comes once ssh has been started
            return (tmp_path / "pid").exists() and bool(pid())

    def pid():
        return (tmp_path / "pid").read_text()

    began = time.monotonic()
    (answer,) = ask_each(["b"], [{}], Received())
    assert isinstance(answer, CommandError)
    assert time.monotonic() - began < remote.PROBE_SECONDS / 2
    assert not psutil.pid_exists(int(pid()))


def test_what_means_this_host_alone_is_not_exported():
    environ = {
        "HOME": "/root",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "SSH_AUTH_SOCK": "x",
        "CUDA_VISIBLE_DEVICES": "0",
        "TFDIST_TICKET": "x",
    }
    assert exported(environ) == {"HOME": "/root", "TF_CPP_MIN_LOG_LEVEL": "2"}
