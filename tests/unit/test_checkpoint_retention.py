"""Which steps are kept."""

import math
from pathlib import Path

import numpy as np
import pytest

from tfdist.checkpoint.parts import Part
from tfdist.checkpoint.retention import Best, Kept, Retention, choose_kept
from tfdist.checkpoint.store import Store


def steps(*numbers: int) -> dict[int, Kept]:
    return {number: Kept(True, {}) for number in numbers}


def with_losses(*losses: object) -> dict[int, Kept]:
    return {step: Kept(True, {"loss": loss}) for step, loss in enumerate(losses)}


def test_the_newest_are_kept():
    assert choose_kept(steps(1, 2, 3, 4), Retention(2)) == {3, 4}
    assert choose_kept({}, Retention(2)) == set()


def test_multiples_are_kept_as_well():
    assert choose_kept(steps(*range(1, 10)), Retention(1, 4)) == {4, 8, 9}


@pytest.mark.parametrize(("mode", "kept"), [("min", {2, 5}), ("max", {1, 5})])
def test_the_best_is_kept_as_well(mode, kept):
    found = with_losses(0.5, 0.9, 0.1, math.nan, "low", None)
    assert choose_kept(found, Retention(1, None, Best("loss", mode))) == kept


def test_of_equals_the_newer_is_the_best():
    found = with_losses(0.5, 0.1, 0.1, 0.5)
    assert choose_kept(found, Retention(1, None, Best("loss"))) == {2, 3}


def test_without_the_metric_there_is_no_best():
    assert choose_kept(steps(1, 2), Retention(1, None, Best("loss"))) == {2}


@pytest.mark.failure(18)
def test_the_last_finite_one_is_kept_as_well():
    found = {step: Kept(step < 3, {}) for step in range(1, 6)}
    assert choose_kept(found, Retention(2)) == {2, 4, 5}


@pytest.mark.parametrize(
    "arguments", [(0,), (-1,), (True,), (1.5,), ("3",), (1, 0), (1, -2)], ids=str
)
def test_numbers_that_keep_nothing_are_refused(arguments):
    with pytest.raises(ValueError, match="HINT: "):
        Retention(*arguments)


def test_another_mode_is_refused():
    with pytest.raises(ValueError, match="'minimum'.*'min' or 'max'"):
        Best("loss", "minimum")


@pytest.mark.failure(10)
def test_fifty_saves_leave_exactly_what_is_asked_for(tmp_path: Path):
    losses = np.random.default_rng(3).random(51)
    store = Store(tmp_path, keep=3, keep_every=20, keep_best=Best("loss"))
    store.open()
    for step in range(1, 51):
        metrics = {"loss": float(losses[step])}
        store.save(step, Part(common={"a": np.ones(2)}, details={"metrics": metrics}))
        best = 1 + int(np.argmin(losses[1 : step + 1]))
        kept = {*range(max(step - 2, 1), step + 1), best}
        kept |= {each for each in range(1, step + 1) if each % 20 == 0}
        assert set(store.steps()) == kept, step
    store.close()
    assert {path.name for path in tmp_path.iterdir()} == {
        f"step-{step:08d}" for step in kept
    }
