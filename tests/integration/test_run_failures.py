"""How a run ends when a rank fails or the user ends it: needs real processes."""

import os
import signal
import time

import pytest

LOCAL_WORKERS = ("-np", "2", "--strategy", "multiworker")

# A rank that is ended while it starts has nothing to show: they wait for each other.
RANK = """
import os, signal, sys, time
from tfdist import cluster
rank = cluster.rank()
print("before", rank, flush=True)
time.sleep(0.5)
open(f"here-{rank}", "w")
while not all(os.path.exists(f"here-{n}") for n in range(cluster.size())):
    time.sleep(0.05)
"""

# Rank 1 fails; rank 0 only loses its peer, complains at length, and exits first.
FIRST_TO_FAIL = (
    RANK
    + """
if rank == 1:
    import atexit
    atexit.register(time.sleep, 3)
    raise ValueError("the cause")
time.sleep(1)
print("lost my peer", file=sys.stderr)
sys.exit(9)
"""
)

WAITING = (
    RANK
    + """
def note(number, frame):
    print("received", number, flush=True)
signal.signal(signal.SIGINT, note)
signal.signal(signal.SIGTERM, note)
print("ready", flush=True)
end = time.monotonic() + (60 if "stubborn" in sys.argv else 2)
while time.monotonic() < end:
    time.sleep(0.1)
"""
)

# Rank 1 fails once rank 0 has its handlers.
IGNORING = WAITING.replace("end =", "time.sleep(1)\nrank == 1 and sys.exit(3)\nend =")


@pytest.mark.parametrize(
    "launch",
    [
        LOCAL_WORKERS,
        ("-np", "2", "--strategy", "horovod"),
        pytest.param(
            ("-np", "2", "--strategy", "horovod", "--controller", "mpi"),
            marks=pytest.mark.full,
        ),
    ],
    ids=["multiworker", "gloo", "mpi"],
)
def test_the_first_failing_rank_decides(run, launch):
    if "horovod" in launch:
        pytest.importorskip("horovod", reason="Horovod is not built")
    one = run(RANK + "time.sleep(60 * (1 - rank)); sys.exit(7)", *launch)
    code, out, err = one.finish()
    assert code == 7
    assert out == "before 0\n"
    host = os.uname().nodename
    assert err == (
        f"tfdist: rank 1 of 2 on {host} ended with exit code 7; the end of "
        f"{one.logs / 'rank-1.log'}:\nbefore 1\n"
    )
    assert not one.survivors()


def test_the_cause_is_blamed_even_if_its_exit_comes_later(run):
    one = run(FIRST_TO_FAIL, *LOCAL_WORKERS)
    code, _, err = one.finish()
    assert code == 1
    assert "tfdist: rank 1 of 2" in err
    assert err.endswith("ValueError: the cause\n")
    assert "lost my peer" not in err and "lost my peer" in one.log(0)
    # The script's own frames, as `python script.py` shows them.
    assert 'Traceback (most recent call last):\n  File "' in err
    assert "runpy" not in err and "bootstrap" not in err


def test_rank_0_is_blamed_without_its_output_again(run):
    one = run(RANK + "time.sleep(60 * rank); sys.exit('no data')", *LOCAL_WORKERS)
    code, out, err = one.finish()
    assert code == 1
    host = os.uname().nodename
    assert err == (
        f"no data\ntfdist: rank 0 of 2 on {host} ended with exit code 1; its log: "
        f"{one.logs / 'rank-0.log'}\n"
    )


def test_a_signal_counts_as_128_and_its_number(run):
    one = run(
        RANK + "time.sleep(60 * (1 - rank)); os.kill(os.getpid(), signal.SIGKILL)",
        *LOCAL_WORKERS,
    )
    code, _, err = one.finish()
    assert code == 128 + signal.SIGKILL
    assert "rank 1 of 2" in err and "was ended by SIGKILL" in err


def test_a_rank_that_ignores_sigterm_is_killed_after_the_grace_period(run):
    one = run(IGNORING, *LOCAL_WORKERS, "--grace", "1", words=("stubborn",))
    started = time.monotonic()
    code, _, _ = one.finish()
    assert code == 3
    assert one.log(0).count("received 15") == 1
    assert time.monotonic() - started < 40  # the script alone would take 60 s
    assert not one.survivors()


def test_what_a_script_leaves_behind_is_ended(run):
    one = run(
        RANK + "import subprocess\n"
        "subprocess.Popen(['setsid', 'sleep', '300'], stdout=subprocess.DEVNULL,"
        " stderr=subprocess.DEVNULL)",
        *LOCAL_WORKERS,
    )
    assert one.finish()[0] == 0
    assert not one.survivors()


@pytest.mark.parametrize(
    ("launch", "number"),
    [
        (LOCAL_WORKERS, signal.SIGINT),
        (LOCAL_WORKERS, signal.SIGTERM),
        (("-np", "2"), signal.SIGINT),
        pytest.param(("-np", "2"), signal.SIGTERM, marks=pytest.mark.full),
    ],
)
def test_a_signal_reaches_every_rank_once(run, launch, number):
    one = run(WAITING, *launch)
    one.wait_for("ready", 0)
    one.wait_for("ready", 1)
    # As a terminal does: to the whole foreground group.
    os.killpg(one.process.pid, number)
    code, _, err = one.finish()
    assert code == 128 + number
    assert err == ""
    for rank in range(2):
        assert one.log(rank).count("received") == 1
        assert f"received {int(number)}" in one.log(rank)
    assert not one.survivors()


def test_a_second_ctrl_c_kills(run):
    one = run(WAITING, *LOCAL_WORKERS, words=("stubborn",))
    one.wait_for("ready", 0)
    one.wait_for("ready", 1)
    one.process.send_signal(signal.SIGINT)
    one.wait_for("received", 0)
    assert one.process.poll() is None  # the ranks have 30 s to end
    one.process.send_signal(signal.SIGINT)
    assert one.finish()[0] == 130
    assert not one.survivors()


@pytest.mark.parametrize(
    "launch",
    [LOCAL_WORKERS, pytest.param(("-np", "2"), marks=pytest.mark.full)],
    ids=["local", "auto"],
)
def test_no_process_survives_a_killed_launcher(run, launch):
    one = run(WAITING, *launch, "--grace", "1", words=("stubborn",))
    one.wait_for("ready", 0)
    one.wait_for("ready", 1)
    assert one.survivors()  # the check itself can see them
    one.process.kill()
    one.wait_for_no_survivors(30)
    assert one.log(0).count("received 15") == 0  # nobody is left to write it


def test_a_killed_wrapper_takes_its_rank_along(run):
    one = run(WAITING, *LOCAL_WORKERS, "--grace", "1", words=("stubborn",))
    one.wait_for("ready", 0)
    one.wait_for("ready", 1)
    ((wrapper, _),) = one.commands("tfdist.launch.run.rank --rank 1")
    os.kill(wrapper, signal.SIGKILL)
    code, _, err = one.finish()
    assert code == 1
    assert "rank 1 of 2" in err and "was lost" in err
    assert not one.survivors()
