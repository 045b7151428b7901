"""Jobs of two ranks, broken off at chosen moments, end as if nothing had happened."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.integration.running import Run
from tests.recovery import told

TRAINING = ("-m", "tests.recovery.training")
STRATEGIES = {
    "gloo": ("-np", "2", "--strategy", "horovod"),
    "mpi": ("-np", "2", "--strategy", "horovod", "--controller", "mpi"),
    "multiworker": ("-np", "2", "--strategy", "multiworker"),
    "mirrored": ("-np", "2", "--strategy", "mirrored"),
    "default": ("-np", "1"),
}
INTERVAL = 4  # steps, as training.py has it
HASH = re.compile(r"^hash (\w+)$", re.MULTILINE)


class Broken:
    """A job that was broken off and has gone on to its end."""

    def __init__(self, run: Run, ranks: int) -> None:
        self.code, self.out, self.err = run.finish()
        assert self.code == 0, self.err
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
        found = {hash for log in self.logs[-1] for hash in HASH.findall(log)}
        assert len(found) == 1, self.logs[-1]
        return found.pop()

    def resumed(self) -> list[int | None]:
        """Return the step from which each start has gone on; None: it had died."""
        found = [
            re.search(r"^resumed (\d+)$", log[0], re.MULTILINE) for log in self.logs
        ]
        return [int(one[1]) if one else None for one in found]

    def repeated(self) -> list[int]:
        """Return how many steps each restart that made any has made again."""
        most, found = 0, []
        for reached, resumed in zip(self.reached, self.resumed(), strict=True):
            if resumed is not None:
                found.append(max(0, most - resumed))
            most = max(most, reached)
        return found[1:]


@pytest.fixture
def train(tmp_path) -> Iterator[Callable[..., Broken]]:
    """Run the training under a strategy, with orders; see training.py."""
    started: list[Run] = []

    def start(name: str, *orders: str, options: tuple[str, ...] = ()) -> Broken:
        folder = tmp_path / f"run-{len(started)}"
        folder.mkdir()
        words: tuple[Any, ...] = (*STRATEGIES[name], "--max-restarts", "9")
        words += ("--backoff", "0.1", "--grace", "10", *options)
        started.append(Run(folder, "", *words, module=(*TRAINING, *orders)))
        return Broken(started[-1], 1 if name in ("mirrored", "default") else 2)

    yield start
    for one in started:
        one.end()


def few(name: str) -> Any:
    return name if name == "gloo" else pytest.param(name, marks=pytest.mark.full)


@pytest.mark.failure(30)
@pytest.mark.failure(32)
@pytest.mark.parametrize("name", [few(name) for name in STRATEGIES])
def test_killed_in_training_in_a_save_and_in_validation(train, name):
    other = 0 if name in ("mirrored", "default") else 1
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
