"""Jobs of two ranks, broken off at chosen moments, end as if nothing had happened."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.integration.running import Run
from tests.recovery import told
from tests.recovery.launched import (
    INTERVAL,
    STRATEGIES,
    common_hash,
    processes,
    resumed,
)

TRAINING = ("-m", "tests.recovery.training")
JOB_SECONDS = 270.0  # for five starts on a busy machine


class Broken:
    """A job that was broken off and has gone on to its end."""

    def __init__(self, run: Run, ranks: int, code: int = 0) -> None:
        self.code, self.out, self.err = run.finish(JOB_SECONDS)
        assert self.code == code, self.err
        self.ranks = ranks
        self.starts = len(list(run.logs.glob("attempt-*")))
        self.logs = [
            [run.log(rank, start) for rank in range(ranks)]
            for start in range(self.starts)
        ]
        self.reached = [
            max(
                place.step
                for rank in range(ranks)
                if (place := told.read(run.logs.parent, start, rank)) is not None
            )
            for start in range(self.starts)
        ]
        assert not run.survivors()

    def hash(self) -> str:
        """Return the one that all ranks have printed."""
        found = common_hash(self.logs[-1])
        assert found, self.logs[-1]
        return found

    def resumed(self) -> list[int | None]:
        """Return the step from which each start has gone on; None: it had died."""
        return [resumed(logs[0]) for logs in self.logs]

    def repeated(self) -> list[int]:
        """Return how many steps each restart that made any has made again."""
        most, found = 0, []
        for reached, begun in zip(self.reached, self.resumed(), strict=True):
            if begun is not None:
                found.append(max(0, most - begun))
            most = max(most, reached)
        return found[1:]


@pytest.fixture
def train(tmp_path) -> Iterator[Callable[..., Broken]]:
    """Run the training under a strategy, with orders; see training.py."""
    started: list[Run] = []

    def start(
        name: str, *orders: str, options: tuple[str, ...] = (), code: int = 0
    ) -> Broken:
        folder = tmp_path / f"run-{len(started)}"
        folder.mkdir()
        words: tuple[Any, ...] = (*STRATEGIES[name], "--max-restarts", "9")
        words += ("--backoff", "0.1", "--grace", "10", *options)
        started.append(Run(folder, "", *words, module=(*TRAINING, *orders)))
        return Broken(started[-1], processes(name), code)

    yield start
    for one in started:
        one.end()


def few(name: str) -> Any:
    return name if name == "gloo" else pytest.param(name, marks=pytest.mark.full)


@pytest.mark.timeout(600)
@pytest.mark.failure(30)
@pytest.mark.failure(32)
@pytest.mark.parametrize("name", [few(name) for name in STRATEGIES])
def test_killed_in_training_in_a_save_and_in_validation(train, name):
    other = processes(name) - 1
    orders = (
        f"0:{other}:step-7:KILL",
        "1:0:save-13:KILL",
        f"2:{other}:validation:KILL",
    )
    broken = train(name, *orders)
    assert broken.starts == 4, broken.err
    assert broken.hash() == train(name).hash()
    # What is in flight when a step is made may be lost with it.
    assert max(broken.repeated()) <= 2 * INTERVAL, broken.repeated()


@pytest.mark.full
def test_what_is_not_put_back_changes_the_result(train):
    """The control: without the states of its random numbers, dropout is another."""
    broken = train("default", "0:0:save-8:KILL", "forget:*seed_generator_state*")
    assert broken.starts == 2
    assert broken.hash() != train("default").hash()


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.failure(32)
@pytest.mark.failure(35)
@pytest.mark.parametrize("name", ["gloo", "multiworker"])
def test_killed_before_the_first_step_stopped_and_both_at_once(train, name):
    orders = ("0:1:start:KILL", "1:0:step-6:STOP", "2:0:step-9:KILL", "2:1:step-9:KILL")
    broken = train(name, *orders, options=("--stall-timeout", "5"))
    assert broken.starts == 4, broken.err
    assert "(SIGSTOP)" in broken.err
    assert broken.hash() == train(name).hash()
    assert max(broken.repeated()) <= 2 * INTERVAL, broken.repeated()


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.failure(31)
@pytest.mark.failure(35)
@pytest.mark.parametrize("name", ["gloo", "multiworker"])
def test_a_rank_that_does_not_come_to_the_restoring_is_named(train, name):
    """And one that comes late is waited for, longer than Gloo's 30 seconds."""
    orders = ("0:1:step-7:KILL", "1:1:restore:STOP", "2:0:restore:SLEEP")
    broken = train(name, *orders, "timeout:30")
    assert broken.starts == 3, broken.err
    assert broken.resumed()[1] is None  # nobody has gone on without it
    assert "StallError" in broken.err and "ank 1" in broken.err, broken.err
    assert broken.resumed()[2] == INTERVAL
    assert broken.hash() == train(name).hash()


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.failure(33)
@pytest.mark.parametrize("name", list(STRATEGIES))
def test_told_to_leave_no_step_is_lost(train, name):
    """In a step, all at once and twice, in validation, in a save."""
    other = processes(name) - 1
    orders = (
        *(f"0:{other}:step-6:TERM", "1:0:step-9:TERM", "1:0:step-9:TERM"),
        *(f"1:{other}:step-9:USR1", f"2:{other}:validation-10:TERM"),
        f"3:{other}:save-17:TERM",
    )
    broken = train(name, *orders, options=("--max-restarts", "1"))
    assert broken.starts == 5, broken.err
    assert broken.err.count("exit code 143") == 4 and "failure" not in broken.err
    assert broken.hash() == train(name).hash()
    assert broken.repeated() == [0] * 4


@pytest.mark.full
@pytest.mark.failure(33)
@pytest.mark.parametrize("name", ["gloo", "default"])
def test_told_to_leave_before_the_first_step(train, name):
    broken = train(name, "0:0:start:TERM")
    assert broken.starts == 2 and "preemption 1; restart 1" in broken.err
    assert broken.hash() == train(name).hash()


@pytest.mark.full
@pytest.mark.failure(34)
def test_killed_shortly_after_it_was_told_to_leave(train):
    """The grace period is too short to save: what was saved before is used."""
    broken = train("default", "0:0:step-7:TERM", "0:0:step-7:KILL")
    assert broken.starts == 2 and "failure 1 of 9" in broken.err
    assert broken.hash() == train("default").hash()


@pytest.mark.full
@pytest.mark.failure(38)
def test_a_step_that_always_kills_ends_the_job(train):
    """Resumed before it, the training dies in step 7 each time: no progress."""
    orders = [f"{start}:0:step-7:KILL" for start in range(9)]
    broken = train("default", *orders, code=76)
    assert broken.starts == 3 and max(broken.resumed()) <= INTERVAL
    assert "failed right after step 6 3 times in a row" in broken.err
