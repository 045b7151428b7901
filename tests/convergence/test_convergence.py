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
    Training,
    trainings,
)
from tests.convergence.report import differences
from tests.convergence.run import run, training_of

SETTINGS = Settings()
SHORT = ("powersgd", "sign", "randomk", "randomk-without")
SHORT_FOLDS = 2
REPEATED = Training("randomk", 0, 0)
FEEDBACK = [name for name in METHODS if WITHOUT not in name and name != UNCOMPRESSED]
CONTROLS = [name for name, method in METHODS.items() if method.worse]

# The fixture `records` launches everything before the first of the short tests.
pytestmark = pytest.mark.timeout(600)
full = pytest.mark.full
long = pytest.mark.timeout(7500)  # the first of these tests trains for all of them


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Return a few trainings: one seed, two of the folds, one of them twice."""
    wanted = trainings([UNCOMPRESSED, *SHORT], 1, SHORT_FOLDS)
    last = wanted.index(REPEATED) + SHORT_FOLDS
    wanted.insert(last, REPEATED)
    out = tmp_path_factory.mktemp("short")
    return run(wanted, SETTINGS, out, strategy="mirrored", seconds=560)


@pytest.fixture(scope="module")
def short(records: list[dict[str, Any]]) -> Mapping[str, float]:
    """Return the accuracy of each method of the short form."""
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


def test_a_training_remembers_nothing_of_those_before_it(
    records: list[dict[str, Any]],
) -> None:
    """Weights, momentum, residuals, draws: the second time it is the same training."""
    first, again = (record for record in records if training_of(record) == REPEATED)
    assert records.index(again) - records.index(first) > 1
    assert first["weights"] == again["weights"]
    assert len({record["weights"] for record in records}) == len(records) - 1


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
@pytest.mark.timeout(1200)
def test_horovod_trains_as_mirrored_does(tmp_path: Path) -> None:
    """With two ranks every sum has one order, so not a bit of a weight differs."""
    wanted = trainings([UNCOMPRESSED, "powersgd", "topk", "int8", "sign"], 1, 1)
    found = {
        way: [
            (record["method"], record["weights"], record["bytes"])
            for record in run(
                wanted, SETTINGS, tmp_path / way, strategy=way, seconds=560
            )
        ]
        for way in ("mirrored", "horovod")
    }
    assert found["horovod"] == found["mirrored"]
