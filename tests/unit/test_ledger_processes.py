"""The ledger between real processes, some of which are killed or stopped.

Run as a script, with FOLDER RANK SIZE BEHAVIOUR, this file is one rank; what it
prints is the outcome.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tfdist import errors
from tfdist.coordination import watchdog
from tfdist.coordination.ledger import start
from tfdist.coordination.limits import Limits

ROOT = Path(errors.__file__).parents[1]
LIMITS = Limits(tick=0.1, settle=0.5, verdict=1.0, disagreement=1.5, leave=2.0)


def quick_execute(seconds):
    """Stands for a collective in C++ that nothing but its end can end."""
    time.sleep(seconds)


def run_rank(folder: Path, rank: int, size: int, behaviour: str) -> None:
    def broadcast(payload: bytes) -> bytes:
        offer, draft = folder / "offer", folder / "draft"
        if payload:
            draft.write_bytes(payload)
            draft.rename(offer)
        while not offer.exists():
            time.sleep(0.02)
        return offer.read_bytes()

    # The stub is recognised by its name; the real predicate by TensorFlow's file.
    stub = quick_execute.__code__
    original = watchdog.Watchdog.__init__

    def with_stub(self, *arguments, **options):
        original(self, *arguments, is_call=lambda f: f.f_code is stub, **options)

    watchdog.Watchdog.__init__ = with_stub  # type: ignore[method-assign]
    ledger = start(rank, size, broadcast, "127.0.0.1", 30.0, None, 3.0, LIMITS)
    ledger.agree("fit")
    ledger.activity("fit step 14")
    time.sleep(0.5)
    (folder / f"ready{rank}").touch()
    try:
        if behaviour == "agree":
            ledger.agree("evaluate", timeout=4.0)
        elif behaviour == "block":
            quick_execute(20.0)
        elif behaviour == "fork":
            if os.fork() == 0:
                time.sleep(8.0)  # a data worker that outlives its parent
                os._exit(0)
            time.sleep(60.0)
        elif behaviour == "sleep":
            time.sleep(60.0)
        print("done")
    except errors.TfdistError as error:
        print(f"{type(error).__name__}: {error}")


@pytest.fixture
def job(tmp_path):
    """Starts one process a behaviour; kills what is left at the end."""
    started = []

    def job(*behaviours):
        for rank, behaviour in enumerate(behaviours):
            command = [sys.executable, __file__, tmp_path, rank, len(behaviours)]
            started.append(
                subprocess.Popen(
                    [*map(str, command), behaviour],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    start_new_session=True,
                    env={**os.environ, "PYTHONPATH": str(ROOT)},
                )
            )
        deadline = time.monotonic() + 30.0
        for rank in range(len(behaviours)):
            while not (tmp_path / f"ready{rank}").exists():
                assert started[rank].poll() is None, started[rank].stderr.read()
                assert time.monotonic() < deadline
                time.sleep(0.02)
        return started

    yield job
    for process in started:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.communicate(timeout=10.0)


def said(process, timeout=20.0):
    """Returns the rank's last words; it must end in time and without warnings."""
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == 0, err
    assert err == ""
    return out.strip()


def test_processes_that_agree_end_quietly(job):
    assert [said(process) for process in job("agree", "agree", "agree")] == ["done"] * 3


def test_a_rank_that_ends_at_the_end_of_its_script(job):
    ranks = job("agree", "end", "agree")
    for rank in (0, 2):
        words = said(ranks[rank])
        assert words.startswith("RankLostError: rank 1 has ended"), words
        assert "'fit step 14'" in words


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_is_noticed_by_those_who_wait(job, victim):
    ranks = job(*("sleep" if rank == victim else "agree" for rank in range(3)))
    begin = time.monotonic()
    ranks[victim].kill()
    for rank in {0, 1, 2} - {victim}:
        words = said(ranks[rank])
        assert words.startswith(f"RankLostError: Rank {victim} was lost"), words
    assert time.monotonic() - begin < 3.0


def test_a_killed_rank_with_a_living_data_worker_is_noticed(job):
    ranks = job("agree", "fork")
    time.sleep(0.3)
    ranks[1].kill()
    assert said(ranks[0]).startswith("RankLostError: Rank 1 was lost")


@pytest.mark.failure(31, 35)
@pytest.mark.parametrize("victim", [0, 1])
def test_a_stopped_rank_is_a_stall_within_the_timeout(job, victim):
    ranks = job(*("sleep" if rank == victim else "agree" for rank in range(2)))
    ranks[victim].send_signal(signal.SIGSTOP)
    begin = time.monotonic()
    words = said(ranks[1 - victim])
    assert words.startswith("StallError: "), words
    assert f"ank {victim}" in words
    assert time.monotonic() - begin < 4.0 + 2.0 + 2.0  # timeout, backup, exit


def test_one_waits_while_the_other_is_blocked_elsewhere(job):
    ranks = job("agree", "block")
    for process in ranks:
        out, err = process.communicate(timeout=20.0)
        everything = out + err  # rank 1 cannot leave its call: it ends itself
        assert "RankMismatchError: " in everything
        assert "rank 0 waits to start 'evaluate' alone" in everything
        assert "rank 1 has been inside 'fit step 14'" in everything
    assert [process.returncode for process in ranks] == [0, 70]


def test_all_blocked_is_a_stall(job):
    for rank, process in enumerate(job("block", "block")):
        _, err = process.communicate(timeout=20.0)
        assert process.returncode == 70
        assert f"rank {rank}: StallError: No rank made progress for 3 s" in err
        assert "in quick_execute" in err


def test_blocked_after_a_rank_was_lost(job):
    ranks = job("block", "sleep")
    ranks[1].kill()
    _, err = ranks[0].communicate(timeout=20.0)
    assert ranks[0].returncode == 70
    assert "rank 0: RankLostError: Rank 1 was lost" in err


if __name__ == "__main__":
    _, folder_, rank_, size_, behaviour_ = sys.argv
    run_rank(Path(folder_), int(rank_), int(size_), behaviour_)
