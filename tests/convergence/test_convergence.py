"""What is cheaper reaches the accuracy of what it replaces, on the digits.

`python -m tests.convergence` prints what the longest of these tests measures.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.convergence.evaluate import Interval, accuracies
from tests.convergence.experiment import SEEDS, Training
from tests.convergence.methods import COMPRESSION, EXPERIMENTS, LARGE_BATCH, PRECISION
from tests.convergence.report import differences
from tests.convergence.run import run, training_of

SHORT = {
    "compression": ("powersgd", "sign", "randomk", "randomk-without"),
    "precision": ("bfloat16", "float16-skips", "unscaled-twice"),
}
REPEATED = {
    "compression": Training("randomk", 0, 0),
    "precision": Training("float16-skips", 0, 0),
}
SHORT_FOLDS = 2
COMPARED = [
    (experiment.name, method)
    for experiment in (COMPRESSION, PRECISION, LARGE_BATCH)
    for method in list(experiment.methods)[1:]
]


def worse(experiment: str, method: str) -> bool | None:
    return EXPERIMENTS[experiment].methods[method].worse


def short_methods(*, worse_ones: bool) -> list[tuple[str, str]]:
    return [
        (name, method)
        for name, methods in SHORT.items()
        for method in methods
        if worse(name, method) == worse_ones
    ]


# The fixture `records` launches everything before the first of the short tests.
pytestmark = pytest.mark.timeout(600)
full = pytest.mark.full
long = pytest.mark.timeout(7500)  # the first of these tests trains for all of them


@pytest.fixture(scope="module")
def records(
    tmp_path_factory: pytest.TempPathFactory,
) -> Mapping[str, list[dict[str, Any]]]:
    """Return a few trainings: one seed, two of the folds, one of them twice."""
    found = {}
    for name, methods in SHORT.items():
        experiment, again = EXPERIMENTS[name], REPEATED[name]
        chosen = experiment.trainings([experiment.reference, *methods], 1)
        wanted = [each for each in chosen if each.fold < SHORT_FOLDS]
        wanted.insert(wanted.index(again) + SHORT_FOLDS, again)
        out = tmp_path_factory.mktemp(name)
        found[name] = run(experiment, wanted, out, strategy="mirrored", seconds=280)
    return found


@pytest.fixture(scope="module")
def short(
    records: Mapping[str, list[dict[str, Any]]],
) -> Mapping[str, Mapping[str, float]]:
    """Return the accuracy of each method of the short form, by experiment."""
    return {
        name: {
            method: of_method[0]
            for method, of_method in accuracies(of_experiment, SHORT_FOLDS).items()
        }
        for name, of_experiment in records.items()
    }


@pytest.fixture(scope="module")
def measured(
    tmp_path_factory: pytest.TempPathFactory,
) -> Mapping[str, Mapping[str, Interval]]:
    """Return every method's difference to its reference, by experiment."""
    found = {}
    for name in dict(COMPARED):
        experiment = EXPERIMENTS[name]
        wanted = experiment.trainings(list(experiment.methods), SEEDS)
        out = tmp_path_factory.mktemp(f"full-{name}")
        records = run(experiment, wanted, out, strategy="mirrored", seconds=7200)
        folds = experiment.settings.folds
        found[name] = differences(experiment, accuracies(records, folds))
    return found


@pytest.mark.parametrize("name", SHORT)
def test_the_reference_learns(
    name: str, short: Mapping[str, Mapping[str, float]]
) -> None:
    assert short[name][EXPERIMENTS[name].reference] > 96.0


@pytest.mark.parametrize(("name", "method"), short_methods(worse_ones=False))
def test_nearly_reaches_it(
    name: str, method: str, short: Mapping[str, Mapping[str, float]]
) -> None:
    """720 images: one of them is 0.14 points."""
    assert short[name][method] > short[name][EXPERIMENTS[name].reference] - 1.5


@pytest.mark.parametrize(("name", "method"), short_methods(worse_ones=True))
def test_is_seen_to_fail(
    name: str, method: str, short: Mapping[str, Mapping[str, float]]
) -> None:
    """Without error feedback, or with gradients that are too small."""
    assert short[name][method] < short[name][EXPERIMENTS[name].reference] - 2.0


@pytest.mark.parametrize("name", REPEATED)
def test_a_training_remembers_nothing_of_those_before_it(
    name: str, records: Mapping[str, list[dict[str, Any]]]
) -> None:
    """Weights, momentum, residuals, scale: the second time it is the same training."""
    found = records[name]
    first, again = (each for each in found if training_of(each) == REPEATED[name])
    assert found.index(again) - found.index(first) > 1
    assert first["weights"] == again["weights"]
    assert first["skipped"] == again["skipped"]
    assert len({record["weights"] for record in found}) == len(found) - 1


def test_steps_are_skipped_where_they_should_be(
    records: Mapping[str, list[dict[str, Any]]],
) -> None:
    skipped = {each["method"]: each["skipped"] for each in records["precision"]}
    assert skipped.pop("float16-skips") > 10
    assert set(skipped.values()) == {0}


@full
@long
@pytest.mark.parametrize(
    ("name", "method"), [pair for pair in COMPARED if worse(*pair) is False]
)
def test_reaches_it(
    name: str, method: str, measured: Mapping[str, Mapping[str, Interval]]
) -> None:
    assert measured[name][method].is_equal, measured[name][method]


@full
@long
@pytest.mark.parametrize(
    ("name", "method"), [pair for pair in COMPARED if worse(*pair)]
)
def test_is_worse(
    name: str, method: str, measured: Mapping[str, Mapping[str, Interval]]
) -> None:
    """Without error feedback, with gradients too small, without a scaled rate."""
    assert measured[name][method].is_worse, measured[name][method]


@full
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("name", "methods"),
    [
        ("compression", ("uncompressed", "powersgd", "topk", "int8", "sign")),
        ("precision", ("float16-skips", "bfloat16")),
        ("large_batch", ("scaled",)),
    ],
)
def test_horovod_trains_as_mirrored_does(
    name: str, methods: tuple[str, ...], tmp_path: Path
) -> None:
    """With two ranks every sum has one order, so not a bit of a weight differs."""
    wanted = [Training(method, 0, 0) for method in methods]
    found = {
        way: [
            (record["method"], record["weights"], record["bytes"], record["skipped"])
            for record in run(
                EXPERIMENTS[name], wanted, tmp_path / way, strategy=way, seconds=560
            )
        ]
        for way in ("mirrored", "horovod")
    }
    assert found["horovod"] == found["mirrored"]
