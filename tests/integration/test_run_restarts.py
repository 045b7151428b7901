"""Restarts of real processes; the script keeps a counter in place of a model."""

import os
import signal
import time

import pytest

LOCAL_WORKERS = ("-np", "2", "--strategy", "multiworker")
QUICK = ("--max-restarts", "4", "--backoff", "0.1", "--grace", "5")

# Every rank counts to 9 in its file, saves after each step, and resumes by itself where
# all ranks have been. Before a step they wait for each other, as in a collective.
COUNTING = """
import os, pathlib, signal, sys, time
from tfdist import cluster
from tfdist.coordination import progress
rank, size = cluster.rank(), cluster.size()
restarts = int(os.environ["TFDIST_RESTARTS"])
files = [pathlib.Path(f"count-{n}") for n in range(size)]
file = files[rank]
step = min(int(each.read_text()) if each.exists() else 0 for each in files)
progress.reach(step)
print("resumed at", step, "restart", restarts, "of size", size, flush=True)
def leave(number, frame):
    sys.exit(128 + number)
signal.signal(signal.SIGUSR1, leave)
def meet(name):
    pathlib.Path(f"{name}-{restarts}-{rank}").touch()
    while not all(os.path.exists(f"{name}-{restarts}-{n}") for n in range(size)):
        time.sleep(0.02)
with progress.phase(single_step=False):
    while step < 9:
        meet(f"step-{step}")
        DO
        step += 1
        temporary = file.with_suffix(".new")
        temporary.write_text(str(step))
        temporary.replace(file)
        progress.installed().step()
        progress.reach(step)
print("done", flush=True)
"""


def counting(line: str) -> str:
    """Return the script with a line in the loop, before each step."""
    return COUNTING.replace("DO", line)


def counts(one) -> list[str]:
    return [(one.logs.parent / f"count-{rank}").read_text() for rank in range(2)]


@pytest.mark.parametrize(
    "launch",
    [
        LOCAL_WORKERS,
        pytest.param(("-np", "2", "--strategy", "horovod"), marks=pytest.mark.full),
        pytest.param(
            ("-np", "2", "--strategy", "horovod", "--controller", "mpi"),
            marks=pytest.mark.full,
        ),
    ],
    ids=["multiworker", "gloo", "mpi"],
)
def test_a_killed_rank_restarts_all(run, launch):
    if "horovod" in launch:
        pytest.importorskip("horovod", reason="Horovod is not built")
    line = "restarts == 0 and rank == step == 1 and os.kill(os.getpid(), 9)"
    one = run(counting(line), *launch, *QUICK)
    code, out, err = one.finish()
    assert code == 0, err
    assert counts(one) == ["9", "9"]
    assert out.startswith("resumed at 0 restart 0 of size 2\nresumed at ")
    assert out.endswith("done\n")
    first, second = err.splitlines()
    host = os.uname().nodename
    log = one.logs / "attempt-0" / "rank-1.log"
    assert first == (
        f"tfdist: rank 1 of 2 on {host} was ended by SIGKILL after step 1 (log: "
        f"{log}); "
        "failure 1 of 4; restart 1 in 0.1 s"
    )
    assert second == "tfdist: restart 1 with 2 ranks on localhost"
    assert one.log(1, 0).startswith("resumed at 0 restart 0")
    assert one.log(1, 1).startswith("resumed at 1 restart 1")
    assert not one.survivors()


def test_one_process_with_several_devices_restarts(run):
    line = "restarts == 0 and step == 1 and sys.exit(3)"
    one = run(counting(line), "-np", "2", "--strategy", "mirrored", *QUICK)
    code, out, err = one.finish()
    assert code == 0 and out.endswith("restart 1 of size 1\ndone\n")
    assert "rank 0 of 1" in err and "restart 1 with 1 rank on localhost" in err


@pytest.mark.full
@pytest.mark.failure(35)
def test_a_stopped_rank_and_an_endless_loop_restart(run):
    line = (
        "if rank == 1 and step == 2 and restarts == 0:\n"
        "            os.kill(os.getpid(), 19)\n"
        "            time.sleep(60)\n"
        "        while rank == 0 and step == 4 and restarts == 1: pass"
    )
    one = run(counting(line), *LOCAL_WORKERS, *QUICK, "--stall-timeout", "2")
    code, _, err = one.finish()
    assert code == 0, err
    assert counts(one) == ["9", "9"]
    assert err.count("makes no step") == 2 and "(SIGSTOP)" in err, err
    assert not one.survivors()


def test_preemptions_are_counted_apart(run):
    line = (
        "rank == step - 1 == restarts and os.kill(os.getpid(), 10)\n"
        "        restarts == 2 and rank == 1 and sys.exit(143)\n"
        "        restarts == 3 and rank == 0 and sys.exit(7)"
    )
    words = ("--max-restarts", "1", "--backoff", "0.1")
    one = run(counting(line), *LOCAL_WORKERS, *words)
    code, _, err = one.finish()
    assert code == 0, err
    first, second, third, fourth = [
        line for line in err.splitlines() if "failure" in line or "preemption" in line
    ]
    assert "rank 0 of 2" in first and "exit code 138 " in first
    assert "preemption 1; restart 1" in first
    assert "rank 1 of 2" in second and "preemption 2; restart 2" in second
    assert "exit code 143" in third and "preemption 3; restart 3" in third
    assert "exit code 7" in fourth and "failure 1 of 1; restart 4" in fourth


@pytest.mark.failure(38)
def test_a_step_that_always_fails_ends_the_job(run):
    one = run(
        counting("step == 4 and rank == 1 and sys.exit('bad example')"),
        *(*LOCAL_WORKERS, "--max-restarts", "9", "--backoff", "0.1"),
    )
    code, _, err = one.finish()
    assert code == 76
    assert "the job failed right after step 4 3 times in a row, and would again" in err
    assert err.endswith("restart 2 of size 2\nbad example\n")
    assert not (one.logs / "attempt-3").exists()


@pytest.mark.full
def test_when_no_restart_is_left_the_last_exit_code_counts(run):
    one = run(
        counting("step == 2 + restarts and sys.exit(5 + restarts)"),
        *(*LOCAL_WORKERS, "--max-restarts", "2", "--backoff", "0.1"),
    )
    code, _, err = one.finish()
    assert code == 7
    assert "(no restart is left after 2); " in err


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGINT, marks=pytest.mark.full),
        signal.SIGTERM,
        pytest.param(signal.SIGUSR1, marks=pytest.mark.full),
    ],
)
def test_a_signal_to_the_command_is_no_reason_to_restart(run, number):
    one = run(
        counting("print('in step', step); time.sleep(60)"), *LOCAL_WORKERS, *QUICK
    )
    for rank in range(2):
        one.wait_for("in step 0", rank, attempt=0)
    one.process.send_signal(number)
    code, _, err = one.finish()
    assert code == 128 + number
    assert err == "" or number == signal.SIGINT, err  # Python's own traceback
    assert "restart" not in err
    assert not (one.logs / "attempt-1").exists()
    assert not one.survivors()


def test_a_signal_while_it_waits_ends_it(run):
    one = run(
        counting("sys.exit(3)"),
        *(*LOCAL_WORKERS, "--max-restarts", "1", "--backoff", "300"),
        *("--max-backoff", "300"),
    )
    one.wait_for("resumed at 0", 0, attempt=0)
    line = one.process.stderr.readline()
    assert "restart 1 in 300 s" in line
    one.process.send_signal(signal.SIGTERM)
    assert one.finish()[0] == 143


def test_a_job_whose_launcher_is_preempted_too_is_not_restarted(run):
    one = run(
        counting("print('in step', step, os.getpid()); time.sleep(60)").replace(
            "signal.SIGUSR1, leave", "signal.SIGTERM, leave"
        ),
        *LOCAL_WORKERS,
        *QUICK,
    )
    for rank in range(2):
        one.wait_for("in step 0", rank, attempt=0)
    # As a cluster does it: everybody is told, the rank perhaps a moment earlier.
    os.kill(int(one.log(1, 0).split("in step 0 ")[1].split()[0]), signal.SIGTERM)
    one.process.send_signal(signal.SIGTERM)
    code, _, err = one.finish()
    assert code == 143 and "restart 1" not in err


def test_a_dead_rank_is_noticed_at_once(run):
    """Within 15 s is promised; an idle machine takes less than one."""
    one = run(
        counting(
            "print('in step', step, os.getpid()); time.sleep(1e3 * (restarts < 1))"
        ),
        *LOCAL_WORKERS,
        *QUICK,
    )
    for rank in range(2):
        one.wait_for("in step 0", rank, attempt=0)
    os.kill(int(one.log(1, 0).split("in step 0 ")[1].split()[0]), signal.SIGKILL)
    began = time.monotonic()
    assert "was ended by SIGKILL" in one.process.stderr.readline()
    assert time.monotonic() - began < 15
    assert one.finish()[0] == 0
