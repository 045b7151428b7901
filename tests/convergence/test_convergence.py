"""Compressed training reaches the accuracy of uncompressed training on the digits.

`python -m tests.convergence` prints what the longest of these tests measures.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.convergence.evaluate import Interval, accuracies
from tests.convergence.experiment import (
    METHODS,
    SEEDS,
    UNCOMPRESSED,
    WITHOUT,
    Settings,
    trainings,
)
from tests.convergence.report import differences
from tests.convergence.run import run

SETTINGS = Settings()
SHORT = ("powersgd", "sign", "randomk", "randomk-without")
SHORT_FOLDS = 2
FEEDBACK = [name for name in METHODS if WITHOUT not in name and name != UNCOMPRESSED]
CONTROLS = [name for name, method in METHODS.items() if method.worse]

full = pytest.mark.full
long = pytest.mark.timeout(7500)  # the first of these tests trains for all of them


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, float]:
    """Return the accuracy of some methods, with one seed, on two of the folds."""
    wanted = [
        training
        for training in trainings([UNCOMPRESSED, *SHORT], 1, SETTINGS.folds)
        if training.fold < SHORT_FOLDS
    ]
    out = tmp_path_factory.mktemp("short")
    records = run(wanted, SETTINGS, out, strategy="mirrored", seconds=280)
    found = accuracies(records, SHORT_FOLDS)
    return {name: of_method[0] for name, of_method in found.items()}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Interval]:
    """Return every method's difference to uncompressed training."""
    wanted = trainings(list(METHODS), SEEDS, SETTINGS.folds)
    out = tmp_path_factory.mktemp("full")
    records = run(wanted, SETTINGS, out, strategy="mirrored", seconds=7200)
    return differences(accuracies(records, SETTINGS.folds))


def test_uncompressed_training_learns(short: Mapping[str, float]) -> None:
    assert short[UNCOMPRESSED] > 96.0


@pytest.mark.parametrize("name", [name for name in SHORT if WITHOUT not in name])
def test_nearly_reaches_it(name: str, short: Mapping[str, float]) -> None:
    """720 images: one of them is 0.14 points."""
    assert short[name] > short[UNCOMPRESSED] - 1.5


@pytest.mark.parametrize("name", [name for name in SHORT if WITHOUT in name])
def test_is_seen_to_fail_without_error_feedback(
    name: str, short: Mapping[str, float]
) -> None:
    assert short[name] < short[UNCOMPRESSED] - 2.0


@full
@long
@pytest.mark.parametrize("name", FEEDBACK)
def test_reaches_it(name: str, measured: Mapping[str, Interval]) -> None:
    assert measured[name].is_equal, measured[name]


@full
@long
@pytest.mark.parametrize("name", CONTROLS)
def test_is_worse_without_error_feedback(
    name: str, measured: Mapping[str, Interval]
) -> None:
    assert measured[name].is_worse, measured[name]


@full
@pytest.mark.timeout(600)
def test_horovod_learns_what_mirrored_learns(tmp_path: Path) -> None:
    """With two ranks, sums have one order: what is recognised is the same."""
    wanted = [
        each
        for each in trainings(["powersgd", "topk", "int8"], 1, SETTINGS.folds)
        if each.fold == 0
    ]
    found: dict[str, list[tuple[Any, ...]]] = {}
    for way in ("mirrored", "horovod"):
        records = run(wanted, SETTINGS, tmp_path / way, strategy=way, seconds=280)
        keys = ("method", "correct", "bytes")
        found[way] = [tuple(each[key] for key in keys) for each in records]
    assert found["horovod"] == found["mirrored"]
