"""The wrapper around a rank: its signals, its records, and that nothing is left."""

import base64
import os
import secrets
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.integration.running import wait_until
from tfdist.coordination.server import Server
from tfdist.launch.run.child import STACKS, STDERR, STDOUT
from tfdist.launch.run.ticket import Ticket, decode, remove, store

SECONDS = 30.0


class Recorder:
    """A referee that notes what a wrapper tells, and orders what it is asked to."""

    def __init__(self):
        self.messages: list[dict] = []
        self.left = False
        self.orders: list[dict] = []

    def join(self, rank, now):
        self.messages.append({"joined": rank})

    def receive(self, rank, message, now):
        self.messages.append(message)

    def leave(self, rank, now):
        self.left = True

    def tick(self, now):
        pass

    def take_outbox(self):
        orders, self.orders = self.orders, []
        return [(None, order) for order in orders]

    def told(self, key):
        return [message[key] for message in list(self.messages) if key in message]

    def output(self, *kinds: int) -> str:
        return b"".join(
            base64.b64decode(message["out"])
            for message in list(self.messages)
            if message.get("to") in kinds
        ).decode()


class Wrapped:
    """A wrapper with a script, started like the launcher starts it."""

    def __init__(self, folder, script, grace=30.0, token=None, rank=0):
        self.heard = Recorder()
        right = secrets.token_bytes(32)
        self.server = Server(2, right, "127.0.0.1", self.heard)
        (folder / "script.py").write_text(script)
        ticket = Ticket(
            size=2,
            addresses=("127.0.0.1",),
            port=self.server.port,
            token=(token or right).hex(),
            script=("script.py", "word"),
            environment={"COMMON": "1"},
            environments=({"OWN": "0"}, {"OWN": "1"}),
            removed=("TF_CONFIG",),
            grace=grace,
            terminals=(False, False),
            window=(80, 24),
            folder=str(folder),
        )
        words = ["-m", "tfdist.launch.run.rank", "--rank", str(rank), "--stdin"]
        words += ["--connect-seconds", "5"]
        self.process = subprocess.Popen(
            [sys.executable, *words],
            cwd="/",  # where ssh may start it
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.process.stdin.write(ticket.encoded() + "\n")
        self.process.stdin.close()

    def wait_for(self, text):
        wait_until(
            lambda: text in self.heard.output(STDOUT), SECONDS, self.heard.output
        )

    def order(self, message):
        self.heard.orders.append(message)

    def finish(self):
        """Lets the wrapper go when it has told all; returns the rank's exit."""
        wait_until(lambda: self.heard.told("closed"), SECONDS, self.heard.output)
        self.order({"done": True})
        assert self.process.wait(SECONDS) == 0
        (code,) = self.heard.told("exit")
        return code

    def end(self):
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()
        self.server.stop(1.0)


@pytest.fixture
def wrap(tmp_path):
    started = []

    def start(script, **options):
        started.append(Wrapped(tmp_path, script, **options))
        return started[-1]

    yield start
    for one in started:
        one.end()


NOTING = """
import os, signal, sys, time
def note(number, frame):
    print("received", number, flush=True)
    if "leave" in OPTIONS:
        sys.exit(5)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, note)
print("ready", os.getpid(), flush=True)
end = time.monotonic() + 60
while time.monotonic() < end:
    time.sleep(0.05)
"""
STUBBORN = NOTING.replace("OPTIONS", "''")
POLITE = NOTING.replace("OPTIONS", "'leave'")


def script_pid(one) -> int:
    one.wait_for("ready")
    return int(one.heard.output(STDOUT).split()[1])


def test_output_environment_and_exit_are_told(wrap, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "")
    one = wrap(
        "import os, sys\n"
        "print(sys.argv, os.environ['COMMON'], os.environ['OWN'])\n"
        "print('TF_CONFIG' in os.environ, 'TFDIST_TICKET' in os.environ)\n"
        "print('complaint', file=sys.stderr)\n"
        "sys.exit(4)",
        rank=1,
    )
    assert one.finish() == 4
    # Of rank 1, one stream: the exact order.
    assert one.heard.output(STDOUT, STDERR) == (
        "['script.py', 'word'] 1 1\nFalse False\ncomplaint\n"
    )
    assert one.heard.told("failed") == [4]
    assert one.heard.told("joined") == [1]
    assert one.heard.told("host") == [os.uname().nodename]


def test_rank_0_keeps_its_streams_apart(wrap):
    one = wrap("import sys\nprint('out')\nprint('err', file=sys.stderr)")
    assert one.finish() == 0
    assert one.heard.output(STDOUT) == "out\n"
    assert one.heard.output(STDERR) == "err\n"
    assert one.heard.told("failed") == []


def test_a_signal_arrives_once_whoever_sends_it(wrap):
    one = wrap(STUBBORN, grace=2.0)
    pid = script_pid(one)
    one.order({"end": int(signal.SIGTERM)})
    one.wait_for("received 15")
    one.process.send_signal(signal.SIGTERM)  # horovodrun's
    one.process.send_signal(signal.SIGINT)
    one.order({"end": int(signal.SIGINT)})
    started = time.monotonic()
    assert one.finish() == -signal.SIGKILL  # after the grace period
    assert time.monotonic() - started < 20
    assert one.heard.output(STDOUT).count("received") == 1
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_rank_may_end_by_itself_in_the_grace_period(wrap, number):
    one = wrap(POLITE)
    script_pid(one)
    one.process.send_signal(number)
    assert one.finish() == 5


def test_kill_needs_no_grace(wrap):
    one = wrap(STUBBORN)
    script_pid(one)
    one.order({"kill": True})
    assert one.finish() == -signal.SIGKILL


def test_a_lost_launcher_ends_the_rank_and_the_wrapper(wrap):
    one = wrap(STUBBORN, grace=0.5)
    pid = script_pid(one)
    one.server.stop(0.1)
    assert one.process.wait(SECONDS) == 0
    assert not psutil.pid_exists(pid)


def test_a_killed_wrapper_takes_the_rank_along(wrap, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    one = wrap(STUBBORN)
    pid = script_pid(one)
    assert psutil.pid_exists(pid)
    one.process.kill()
    wait_until(lambda: not psutil.pid_exists(pid), SECONDS, lambda: pid)
    assert not list((tmp_path / "temporary").iterdir())


def test_descendants_in_other_sessions_end_with_the_rank(wrap):
    one = wrap(
        "import subprocess\n"
        "sleep = 'sleep 300 & echo $!; wait'\n"
        "child = subprocess.Popen(['setsid', 'sh', '-c', sleep])\n"
        "import time; time.sleep(0.5)"
    )
    assert one.finish() == 0
    assert not psutil.pid_exists(int(one.heard.output(STDOUT)))


def test_a_stopped_rank_shows_its_stacks(wrap):
    one = wrap(STUBBORN, grace=0.5)
    pid = script_pid(one)
    os.kill(pid, signal.SIGSTOP)
    wait_until(
        lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED, SECONDS, str
    )
    one.order({"stacks": True})
    wait_until(lambda: one.heard.told("state"), SECONDS, one.heard.output)
    assert one.heard.told("state") == ["T"]
    assert one.heard.told("waiting") == [False]
    assert 'script.py", line' in one.heard.output(STACKS)
    assert "most recent call first" not in one.heard.output(STDOUT, STDERR)
    os.kill(pid, signal.SIGSTOP)
    one.order({"end": int(signal.SIGTERM)})
    one.wait_for("received 15")  # also when it was stopped


def test_steps_are_told_while_the_rank_is_busy(wrap):
    one = wrap(
        "import time\n"
        "from tfdist.coordination import progress\n"
        "with progress.phase(single_step=False):\n"
        "    for _ in range(3):\n"
        "        progress.installed().step()\n"
        "    time.sleep(3)"
    )
    wait_until(lambda: 3 in one.heard.told("steps"), SECONDS, one.heard.output)
    reported = [m for m in one.heard.messages if m.get("steps") == 3]
    assert reported[0]["expected"] is True
    assert one.finish() == 0


def test_how_far_a_killed_rank_was_is_told_with_its_end(wrap):
    one = wrap(
        "import os\n"
        "from tfdist.coordination import progress\n"
        "progress.reach(41)\n"
        "os.kill(os.getpid(), 9)"
    )
    assert one.finish() == -signal.SIGKILL
    (ending,) = [message for message in one.heard.messages if "exit" in message]
    assert ending["reached"] == 41


def test_a_stranger_is_not_obeyed(wrap):
    one = wrap("print('it ran')", token=bytes(32))
    one.process.wait(60)
    assert one.process.returncode == 1
    assert "cannot reach tfdist run" in one.process.stderr.read()
    assert one.heard.messages == []


def test_a_ticket_is_for_its_owner_only(tmp_path):
    path = tmp_path / "job" / "ticket.json"
    store("{}", path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    store("{}", path)  # hosts may share the folder
    with pytest.raises(FileExistsError):  # nobody can have put it there before
        store('{"port": 1}', path)
    remove(path)
    assert not path.parent.exists()
    remove(path)


def test_a_ticket_survives_its_text():
    ticket = Ticket(
        *(2, ("a", "b"), 1, "00", ("x.py",), {"A": "1"}, ({}, {"B": "é\n"})),
        *(("TF_CONFIG",), 1.5, (True, False), (80, 24), "/a folder"),
    )
    assert decode(ticket.encoded()) == ticket
