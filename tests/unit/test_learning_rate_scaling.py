"""LearningRateScaling in one process: rates computed by hand, exactly."""

import json

import keras
import numpy as np
import pytest

from tests.scaled_runs import (
    RATE,
    STEPS,
    Weights,
    by_hand,
    falling,
    fit,
    quadratic,
    weight,
)
from tfdist.callbacks import LearningRateScaling
from tfdist.strategies import fits


def test_rates_of_every_step_over_three_epochs():
    record = Weights()
    scaling = LearningRateScaling(reference_batch_size=4, warmup_epochs=2)
    logged = fit(falling(), scaling, record)
    expected = by_hand(4 * RATE, 2 * STEPS, 3 * STEPS + 1)
    assert record.rates == expected[:-1]
    assert logged == expected[STEPS::STEPS]  # like Keras: the rate that comes next


@pytest.mark.parametrize(
    ("rule", "factor"),
    [("linear", 16.0), ("sqrt", 4.0), ("none", 1.0), (lambda b, k: b * k / 2, 8.0)],
    ids=["linear", "sqrt", "none", "function"],
)
def test_rules(rule, factor):
    scaling = LearningRateScaling(rule, reference_batch_size=1, warmup_epochs=0)
    assert fit(falling(), scaling, epochs=1) == [RATE * factor]


def test_without_a_reference_batch_the_rate_is_only_warmed_up(caplog):
    record = Weights()
    scaling = LearningRateScaling(warmup_epochs=1)
    fit(falling(), scaling, record, epochs=2)
    rise = [RATE / 4 + (RATE - RATE / 4) * step / 4 for step in range(4)]
    assert record.rates == [*rise, *[RATE] * 4]
    fit(falling(), scaling)
    assert caplog.text.count("only warms") == 1


def test_initial_rate():
    record = Weights()
    scaling = LearningRateScaling(
        reference_batch_size=4, warmup_steps=4, initial=RATE / 2
    )
    fit(falling(), scaling, record, epochs=1)
    assert record.rates == [
        RATE / 2 + (4 * RATE - RATE / 2) * step / 4 for step in range(4)
    ]


@pytest.mark.parametrize(
    ("after", "parameters", "expected"),
    [
        ("constant", {}, [1.0] * 8),
        ("cosine", {}, [(1 + np.cos(np.pi * s / 8)) / 2 for s in range(8)]),
        ("cosine", {"steps": 8, "final": 0.5}, [1, *([None] * 3), 0.5, 0.5, 0.5, 0.5]),
        ("polynomial", {}, [1 - s / 8 for s in range(8)]),
        (
            "polynomial",
            {"epochs": 2, "power": 2.0},
            [1, 0.5625, 0.25, 0.0625, *[0] * 4],
        ),
        ("step", {"epochs": [2], "factor": 0.5}, [1] * 4 + [0.5] * 4),
        ("step", {"steps": [6, 8], "factor": 0.5}, [1, 1, 0.5, 0.5] + [0.25] * 4),
    ],
)
def test_after_the_warm_up(after, parameters, expected):
    record = Weights()
    scaling = LearningRateScaling(
        reference_batch_size=4, warmup_epochs=1, after=after, **parameters
    )
    fit(falling(), scaling, record)
    assert len(record.rates) == 12
    for rate, part in zip(record.rates[4:], expected, strict=True):
        if part is not None:
            assert rate == pytest.approx(4 * RATE * part, rel=1e-6, abs=1e-6)


def test_rates_change_within_an_execution():
    model = falling(steps_per_execution=4)
    record = Weights()
    fit(model, LearningRateScaling(reference_batch_size=4, warmup_epochs=2), record)
    expected = np.reshape(by_hand(4 * RATE, 8, 12), (3, 4)).sum(axis=1)
    assert record.rates == expected.tolist()


def test_accumulated_updates_start_at_the_unscaled_rate():
    record = Weights()
    optimizer = keras.optimizers.SGD(RATE, gradient_accumulation_steps=2)
    scaling = LearningRateScaling(reference_batch_size=4, warmup_epochs=2)
    fit(falling(optimizer), scaling, record)
    expected = by_hand(4 * RATE, 8, 12)
    assert record.rates == [r for rate in expected[::2] for r in (0.0, rate)]


@pytest.mark.parametrize("rule", ["linear", "none"])
def test_a_schedule_is_scaled_and_keeps_its_course(rule):
    schedule = keras.optimizers.schedules.ExponentialDecay(RATE, 4, 0.5)
    factor = 4.0 if rule == "linear" else 1.0
    scaling = LearningRateScaling(rule, reference_batch_size=4, warmup_steps=0)
    model = falling(keras.optimizers.SGD(schedule))
    assert fit(model, scaling) == [factor * RATE / 2**epoch for epoch in (1, 2, 3)]
    assert model.optimizer._learning_rate is schedule


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("corrected", [True, False])
def test_corrected_momentum_keeps_the_rate_out_of_the_velocity(nesterov, corrected):
    """Equal to u = m u + g; w -= rate (u, or g + m u), as Goyal et al. write it."""
    rates = [0.02 + 0.14 * min(step / 8, 1) for step in range(12)]
    expected, velocity = 1.0, 0.0
    for rate in rates:
        gradient = expected
        velocity = 0.5 * velocity + gradient
        expected -= rate * (gradient + 0.5 * velocity if nesterov else velocity)
    optimizer = keras.optimizers.SGD(0.02, momentum=0.5, nesterov=nesterov)
    model = quadratic(optimizer)
    scaling = LearningRateScaling(
        reference_batch_size=2, warmup_epochs=2, momentum_correction=corrected
    )
    fit(model, scaling)
    assert (weight(model) == pytest.approx(expected, abs=1e-6)) == corrected


@pytest.mark.parametrize("corrected", [True, False])
def test_a_rate_that_is_set_corrects_momentum_too(corrected):
    halve = keras.callbacks.LearningRateScheduler(
        lambda epoch, rate: rate / 2 if epoch else rate
    )
    expected, velocity = 1.0, 0.0
    for step in range(8):
        velocity = 0.5 * velocity + expected
        expected -= (0.16 if step < 4 else 0.08) * velocity
    model = quadratic(keras.optimizers.SGD(0.02, momentum=0.5))
    scaling = LearningRateScaling(
        reference_batch_size=2, warmup_epochs=0, momentum_correction=corrected
    )
    fit(model, scaling, halve, epochs=2)
    assert (weight(model) == pytest.approx(expected, abs=1e-6)) == corrected


def test_reduce_on_plateau_sets_the_rate_that_it_means():
    reduce = keras.callbacks.ReduceLROnPlateau("loss", 0.5, patience=1, min_delta=1e9)
    scaling = LearningRateScaling(reference_batch_size=4, warmup_epochs=1)
    model = falling()
    logged = fit(model, scaling, reduce, epochs=4)
    # It logs before it reduces: after the epochs 2, 3 and 4.
    assert logged == [4 * RATE, 4 * RATE, 2 * RATE, RATE]
    assert float(model.optimizer.learning_rate.numpy()) == RATE / 8


def test_a_rate_set_during_warm_up_is_that_of_the_next_step():
    record = Weights()
    set_once = keras.callbacks.LearningRateScheduler(
        lambda epoch, rate: rate / 2 if epoch == 1 else rate
    )
    scaling = LearningRateScaling(reference_batch_size=4, warmup_epochs=2)
    fit(falling(), scaling, set_once, record)
    expected = by_hand(4 * RATE, 8, 12)
    assert record.rates == [*expected[:4], *(rate / 2 for rate in expected[4:])]


def test_setting_the_rate_of_a_schedule_is_refused():
    schedule = keras.optimizers.schedules.ExponentialDecay(RATE, 4, 0.5)
    setter = keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.5)
    model = falling(keras.optimizers.SGD(schedule))
    with pytest.raises(TypeError, match=r"cannot be set(.|\n)*HINT"):
        fit(model, LearningRateScaling(warmup_epochs=1), setter)


class Stop(keras.callbacks.Callback):
    """Fail in the middle of the second epoch."""

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == 6:
            raise KeyboardInterrupt


def test_the_optimizer_gets_its_rate_back_however_fit_ends():
    model = falling()
    model.optimizer.build(model.trainable_variables)
    before = dict(vars(model.optimizer))
    scaling = LearningRateScaling(reference_batch_size=4, warmup_epochs=1)
    with pytest.raises(KeyboardInterrupt):
        fit(model, scaling, Stop())
    assert fits.running(model) is None
    assert vars(model.optimizer) == before
    last = weight(model)
    assert fit(model, epochs=1) is None  # nothing logs a rate any more
    assert last - weight(model) == STEPS * RATE


def test_files_written_meanwhile_hold_the_base_rate(tmp_path):
    save = keras.callbacks.ModelCheckpoint(
        str(tmp_path / "{epoch}.weights.h5"), save_weights_only=True
    )
    whole = keras.callbacks.ModelCheckpoint(str(tmp_path / "model.keras"))
    model = quadratic(keras.optimizers.SGD(RATE, momentum=0.5))
    model.compile(model.optimizer, "mse")
    fit(
        model, LearningRateScaling(reference_batch_size=4, warmup_epochs=1), whole, save
    )
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer) is keras.optimizers.SGD
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    assert loaded.optimizer.get_config()["learning_rate"] == RATE
    assert int(loaded.optimizer.iterations) == 12


class Halt(keras.callbacks.Callback):
    """End training after the third epoch."""

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = epoch == 2


@pytest.mark.parametrize("remembered", [True, False])
def test_resumed_training_equals_training_in_one_go(remembered, tmp_path):
    def scaling():
        return LearningRateScaling(
            lambda rate, ratio: min(rate * ratio, 0.4),
            reference_batch_size=4,
            warmup_epochs=1.5,
            initial=0.1,
            after="cosine",
        )

    def build():
        model = quadratic(keras.optimizers.SGD(RATE, momentum=0.5))
        model.optimizer.build(model.trainable_variables)
        return model

    halve = keras.callbacks.LearningRateScheduler(
        lambda epoch, rate: rate / 2 if epoch == 2 else rate
    )
    whole, first, second = build(), build(), build()
    expected = fit(whole, scaling(), halve, epochs=6)
    saved, restored = scaling(), scaling()
    begun = fit(first, saved, halve, Halt(), epochs=6)
    first.save_weights(tmp_path / "half.weights.h5")
    second.load_weights(tmp_path / "half.weights.h5")
    if remembered:
        restored.set_state([json.loads(json.dumps(saved.get_state()))])
    ended = fit(second, restored, halve, epochs=6, initial_epoch=3)
    assert (begun + ended == expected) == remembered
    assert (weight(second) == weight(whole)) == remembered


def test_another_optimizer_has_a_base_rate_of_its_own():
    scaling = LearningRateScaling(
        reference_batch_size=4, warmup_steps=4, initial=RATE / 2
    )
    for base in (RATE, 8 * RATE):
        record = Weights()
        fit(falling(keras.optimizers.SGD(base)), scaling, record, epochs=1)
        assert record.rates[0] == RATE / 2


def test_training_that_goes_on_after_its_end_is_told(caplog):
    model = falling()
    scaling = LearningRateScaling(warmup_epochs=1, after="cosine")
    fit(model, scaling)
    assert "stays as it is" not in caplog.text
    fit(model, LearningRateScaling(warmup_epochs=1, after="cosine"))
    assert "12 steps of 12 are made" in caplog.text
