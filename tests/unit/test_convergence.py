"""The experiment on the digits: who sees what, and what is made of the counts."""

import dataclasses
import json

import numpy as np
import pytest

from tests.convergence import digits
from tests.convergence.evaluate import Interval, accuracies, difference
from tests.convergence.experiment import Settings, Training
from tests.convergence.methods import COMPRESSION, EXPERIMENTS, LARGE_BATCH, PRECISION
from tests.convergence.report import broken, markdown
from tests.convergence.run import missing, read
from tests.convergence.worker import callbacks_of
from tests.pages import replace_between_marks

SMALL = Settings(epochs=2)
EXPERIMENT = dataclasses.replace(COMPRESSION, settings=SMALL)


def record(method, seed, fold, correct, images=10):
    known = {"method": method, "seed": seed, "fold": fold, "correct": correct}
    known |= {"images": images, "bytes": 50.0, "bytes_uncompressed": 100.0}
    return known | {"settings": SMALL.fingerprint()}


def test_interval_of_known_numbers():
    """Student's t for 2 degrees of freedom and 95 % is 4.30265."""
    found = difference({0: 91.0, 1: 92.0, 2: 93.0, 3: 0.0}, {0: 90.0, 1: 90.0, 2: 90.0})
    assert found.mean == pytest.approx(2.0)
    assert found.high - 2.0 == pytest.approx(4.30265 / 3**0.5, rel=1e-5)
    assert 2.0 - found.low == pytest.approx(found.high - 2.0)


def test_interval_is_as_sure_as_it_says():
    """Of 2,000 intervals around differences of mean 0, 5 % miss it."""
    draws = np.random.default_rng(0).normal(size=(2000, 10))
    hits = 0
    for row in draws:
        found = difference(dict(enumerate(row)), dict.fromkeys(range(10), 0.0))
        hits += found.low < 0 < found.high
    assert 0.93 < hits / len(draws) < 0.97


def test_one_seed_makes_no_interval():
    with pytest.raises(ValueError, match="two seeds"):
        difference({0: 90.0, 1: 90.0}, {0: 90.0})


@pytest.mark.parametrize(
    ("low", "high", "equal", "worse"),
    [
        (-0.5, 0.5, True, False),
        (-0.6, 0.1, False, False),
        (-0.1, 0.6, False, False),
        (-0.9, -0.6, False, True),
        (-0.9, -0.4, False, False),
    ],
)
def test_verdict(low, high, equal, worse):
    found = Interval((low + high) / 2, low, high)
    assert (found.is_equal, found.is_worse) == (equal, worse)


def test_a_method_that_should_fail_and_does_not_is_broken_as_well():
    good, bad = Interval(0.0, -0.1, 0.1), Interval(-2.0, -2.1, -1.9)
    assert broken(COMPRESSION, {"topk": good, "topk-without": bad}) == {}
    wrong = {"topk": bad, "topk-without": good}
    assert broken(COMPRESSION, wrong | {"int8-without": bad}) == wrong


def test_accuracy_counts_images_and_only_complete_seeds():
    records = [record("topk", 0, 0, 9), record("topk", 0, 1, 10, images=30)]
    records += [record("topk", 1, 0, 9)]
    assert accuracies(records, folds=2) == {"topk": {0: 100 * 19 / 40}}


def test_every_image_is_left_out_once():
    _, labels = digits.images_and_labels()
    assert len(labels) == 1797
    for seed in (0, 1):
        fold = digits.fold_of(labels, seed, SMALL.folds)
        assert set(fold) == set(range(SMALL.folds))
        for digit in range(digits.CLASSES):
            counts = np.bincount(fold[labels == digit], minlength=SMALL.folds)
            assert counts.max() - counts.min() <= 1
    assert (digits.fold_of(labels, 0, 5) != digits.fold_of(labels, 1, 5)).any()


def test_no_training_sees_what_it_is_tested_on():
    _, labels = digits.images_and_labels()
    fold = digits.fold_of(labels, 3, SMALL.folds)
    for tested in range(SMALL.folds):
        seen = digits.batches(labels, 3, tested, SMALL)
        steps = digits.steps_of_epoch(labels, SMALL)
        assert seen.shape == (SMALL.epochs * steps, SMALL.batch)
        assert tested not in fold[seen]
        epoch = seen[:steps].ravel()
        assert len(set(epoch)) == len(epoch)
        assert not (seen[:steps] == seen[steps:]).all()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_methods_are_sound(name):
    experiment = EXPERIMENTS[name]
    assert not callbacks_of(experiment.methods[experiment.reference])
    for method in experiment.methods.values():
        assert len(callbacks_of(method)) == bool(method.callback)


def test_what_a_method_changes_cannot_be_mixed_up(tmp_path):
    settings = {name: LARGE_BATCH.settings_of(name) for name in LARGE_BATCH.methods}
    assert [each.batch for each in settings.values()] == [16, 128, 128, 128]
    assert settings["small"].fingerprint() != settings["scaled"].fingerprint()
    path = tmp_path / "records.jsonl"
    kept = record("small", 0, 0, 9) | {"settings": settings["small"].fingerprint()}
    path.write_text(json.dumps(kept))
    assert read(path, LARGE_BATCH) == [kept]
    path.write_text(json.dumps(kept | {"method": "scaled"}))
    with pytest.raises(ValueError, match="other settings"):
        read(path, LARGE_BATCH)


def test_rates_are_tuned_on_other_seeds():
    tuned, judged = (
        {each.seed for each in EXPERIMENTS[name].trainings(["x"], 10)}
        for name in ("base_rate", "large_batch")
    )
    assert len(tuned) == 10 and not tuned & judged


def test_an_interrupted_run_goes_on(tmp_path):
    wanted = [Training("topk", 0, fold) for fold in range(3)]
    path = tmp_path / "records.jsonl"
    assert missing(wanted, read(path, EXPERIMENT)) == wanted
    path.write_text(json.dumps(record("topk", 0, 1, 9)) + "\n")
    assert missing(wanted, read(path, EXPERIMENT)) == [
        Training("topk", 0, 0),
        Training("topk", 0, 2),
    ]
    with pytest.raises(ValueError, match="other settings"):
        read(path, COMPRESSION)
    with pytest.raises(ValueError, match="other settings"):
        read(path, dataclasses.replace(PRECISION, settings=SMALL))


def test_table_stands_between_its_marks():
    records = [
        record(method, seed, 0, 9 - (method != "uncompressed") * seed)
        for method in ("uncompressed", "topk", "topk-without")
        for seed in (0, 1)
    ]
    one_fold = dataclasses.replace(SMALL, folds=1)
    text = markdown(dataclasses.replace(COMPRESSION, settings=one_fold), records)
    page = "before\n<!-- x -->\nold\n<!-- end of x -->\nafter\n"
    page = replace_between_marks(page, "x", text)
    assert page.startswith("before\n") and page.endswith("after\n")
    assert "old" not in page
    assert (
        "| top-k, 1 % | 85.00 | -5.00 (-68.53 to +58.53) | 50 | 2.0 | 85.00 |" in page
    )
    assert replace_between_marks(page, "x", text) == page
    with pytest.raises(ValueError, match="no "):
        replace_between_marks("nothing here", "x", text)
