"""The way to other hosts, with a stand-in for ssh: it needs no second machine.

The stand-in starts the command here, in an environment as bare as a login's. Real
hosts with real sshds are in tests/hosts.
"""

import os
import signal

import pytest

SSH = """#!/bin/bash
options() {
    while [[ $1 == -* ]]; do
        case $1 in -o | -p | -i) shift 2 ;; --) shift; break ;; *) shift ;; esac
    done
    words=("$@")
}
options "$@"
host=${words[0]}
options "${words[@]:1}"
[[ $host == 127.0.0.3 ]] && { echo "connect to host: No route to host" >&2; exit 255; }
exec env -i HOME="$HOME" PATH=/usr/bin:/bin TFDIST_TEST_MARK="$TFDIST_TEST_MARK" \\
    sh -c "${words[*]}"
"""

WORKERS = ("-H", "127.0.0.2:2", "--strategy", "multiworker")

SHOWING = """
import os, sys, time
from tfdist import cluster
print(cluster.rank(), os.environ["TFDIST_STRATEGY"], os.environ.get("MINE"), flush=True)
if "wait" in sys.argv:
    time.sleep(60)
"""


@pytest.fixture
def ssh(tmp_path, monkeypatch):
    """Put the stand-in first on PATH."""
    program = tmp_path / "bin/ssh"
    program.parent.mkdir()
    program.write_text(SSH)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return program


def test_workers_on_another_host(run, ssh, monkeypatch):
    monkeypatch.setenv("MINE", "it's mine")
    one = run(SHOWING, *WORKERS)
    assert one.finish() == (0, "0 multiworker it's mine\n", "")
    assert one.log(1) == "1 multiworker it's mine\n"
    assert not one.survivors()


def test_a_signal_reaches_workers_on_another_host(run, ssh):
    one = run(SHOWING, *WORKERS, words=("wait",))
    one.wait_for("1 multiworker", 1)
    one.wait_for("0 multiworker", 0)
    assert one.survivors()
    one.process.send_signal(signal.SIGTERM)
    assert one.finish()[0] == 143
    assert not one.survivors()


@pytest.mark.full
@pytest.mark.parametrize("controller", ["gloo", "mpi"])
def test_horovod_on_another_host(run, ssh, monkeypatch, controller):
    pytest.importorskip("horovod", reason="Horovod is not built")
    monkeypatch.setenv("MINE", "it's mine")
    one = run(SHOWING, "-H", "127.0.0.2:2", "--controller", controller)
    code, out, err = one.finish()
    assert (code, err) == (0, "")
    assert out == "0 horovod it's mine\n"
    assert not one.survivors()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("-H", "127.0.0.3:2"), "127.0.0.3 cannot be reached by ssh: connect to host"),
        (
            ("-H", "127.0.0.2:2", "--strategy", "multiworker", "--port", "PORT"),
            "is in use",
        ),
    ],
)
def test_a_host_that_cannot_work_is_refused(run, ssh, arguments, problem):
    import socket

    with socket.create_server(("0.0.0.0", 0)) as server:
        port = str(server.getsockname()[1])
        one = run(SHOWING, *(port if word == "PORT" else word for word in arguments))
        code, out, err = one.finish()
    assert (code, out) == (2, "")
    assert problem in err and " HINT: " in err and err.count("\n") == 1
    assert one.log(0) == ""
