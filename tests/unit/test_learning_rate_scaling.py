"""LearningRateScaling in one process: rates computed by hand, and what is refused."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdist.callbacks import LearningRateScaling, compression_start
from tfdist.strategies import arguments, fits

RATE = 0.125  # a power of two: what is computed by hand is exact
STEPS = 4  # of an epoch


def falling(optimizer=None, **options):
    """Return a model whose weight is 0 and falls by the rate in every step of SGD."""
    model = keras.Sequential(
        [
            keras.Input((1,)),
            keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros"),
        ]
    )
    optimizer = optimizer or keras.optimizers.SGD(RATE)
    model.compile(optimizer, lambda _, outputs: outputs, **options)
    return model


def fit(model, *callbacks, epochs=3, **options):
    """Train four batches of 16 an epoch; return the logged rates."""
    ones = np.ones((64, 1), "float32")
    options = {"batch_size": 16, "verbose": 0, "shuffle": False} | options
    model.fit(ones, ones, epochs=epochs, callbacks=list(callbacks), **options)
    return model.history.history.get("learning_rate")


def weight(model):
    return model.get_weights()[0].item()


class Weights(keras.callbacks.Callback):
    """Record the rates of plain SGD: the differences of the weight."""

    def on_train_begin(self, logs=None):
        self.weights = [weight(self.model)]

    def on_train_batch_end(self, batch, logs=None):
        self.weights.append(weight(self.model))

    @property
    def rates(self):
        return (-np.diff(self.weights)).tolist()


def by_hand(scaled, warmup, steps):
    """Return the rates of a warm-up from RATE, and what follows."""
    return [RATE + (scaled - RATE) * min(step / warmup, 1.0) for step in range(steps)]


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


def quadratic(optimizer):
    model = falling(optimizer)
    model.compile(optimizer, lambda _, outputs: outputs**2 / 2)
    model.set_weights([np.ones((1, 1))])
    return model


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


def test_training_that_goes_on_after_its_end_is_told(caplog):
    model = falling()
    scaling = LearningRateScaling(warmup_epochs=1, after="cosine")
    fit(model, scaling)
    assert "stays as it is" not in caplog.text
    fit(model, LearningRateScaling(warmup_epochs=1, after="cosine"))
    assert "12 steps of 12 are made" in caplog.text


@keras.saving.register_keras_serializable("tests")
def cubic_root(rate, ratio):
    return rate * ratio ** (1 / 3)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rule": "sqrt", "reference_batch_size": 32, "warmup_steps": 7},
        {"rule": cubic_root, "initial": 0.5, "momentum_correction": False},
        {"after": "step", "epochs": [3, 6.5], "factor": 0.2, "batch_size": 64},
        {"after": "cosine", "steps": 100, "final": 0.1},
    ],
)
def test_configuration_round_trip(options):
    scaling = LearningRateScaling(**options)
    config = json.loads(json.dumps(scaling.get_config()))
    assert LearningRateScaling.from_config(config).get_config() == config
    assert LearningRateScaling.from_config(config).rule == scaling.rule
    for name in options.keys() - {"rule"}:
        assert config[name] == options[name]


def test_a_rule_without_a_name_is_not_written_down():
    with pytest.raises(ValueError, match=r"cannot be written(.|\n)*HINT"):
        LearningRateScaling(lambda rate, ratio: rate).get_config()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "cubic"}, "'cubic'.*'linear', 'sqrt', 'none'"),
        ({"after": "never"}, "'never'.*'constant', 'cosine', 'step', 'polynomial'"),
        ({"after": "cosine", "factor": 2}, "no such parameter.*factor"),
        ({"final": 0.5}, "'constant' has no such parameter.*final"),
        ({"after": "cosine", "final": 2}, "final.*from 0 to 1"),
        ({"after": "step"}, "list of epochs"),
        ({"after": "step", "epochs": [1], "steps": [4]}, "given twice"),
        ({"initial": -0.1}, "initial.*-0.1"),
        ({"initial": "low"}, "initial.*'low'"),
        ({"warmup_epochs": -1}, "warmup_epochs.*-1"),
        ({"warmup_steps": 1.5}, "warmup_steps.*1.5"),
        ({"reference_batch_size": 0}, "reference_batch_size.*0"),
        ({"batch_size": "16"}, "batch_size.*'16'"),
    ],
)
def test_bad_arguments_are_refused_at_once(options, message):
    with pytest.raises(ValueError, match=rf"{message}(.|\n)*HINT"):
        LearningRateScaling(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"longer than the training.*20 steps.*12 steps \(3 epochs of 4\)"),
        ({"warmup_steps": 13}, "13 steps.*12 steps"),
        ({"rule": lambda b, k: -b, "warmup_epochs": 1}, "-0.125"),
        ({"warmup_epochs": 3, "after": "cosine"}, "step 12.*12 steps"),
        ({"warmup_epochs": 2, "after": "step", "epochs": [1]}, "step 4.*8 steps"),
    ],
)
def test_what_does_not_fit_the_training_is_refused_before_it(options, message):
    model = falling()
    with pytest.raises(ValueError, match=rf"{message}(.|\n)*HINT"):
        fit(model, LearningRateScaling(**options))
    assert weight(model) == 0.0


@pytest.mark.parametrize(
    ("optimizer", "options", "message"),
    [
        (lambda: keras.optimizers.SGD(-0.1), {}, "rate is -0.1"),
        (lambda: keras.optimizers.SGD(0.0), {"initial": 0.1}, "rate is 0"),
        (
            lambda: keras.optimizers.SGD(
                keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5)
            ),
            {"after": "cosine"},
            "fall twice",
        ),
    ],
    ids=["negative", "zero", "two schedules"],
)
def test_wrong_optimizers_are_refused(optimizer, options, message):
    scaling = LearningRateScaling(warmup_epochs=1, **options)
    with pytest.raises(ValueError, match=rf"{message}(.|\n)*HINT"):
        fit(falling(optimizer()), scaling)


def test_two_scalings_are_refused_and_leave_no_trace():
    model = falling()
    own = keras.optimizers.SGD.get_config(model.optimizer)
    callbacks = [LearningRateScaling(warmup_epochs=1) for _ in range(2)]
    with pytest.raises(ValueError, match=r"only once(.|\n)*HINT"):
        fit(model, *callbacks)
    assert model.optimizer.get_config() == own
    assert weight(model) == 0.0


def test_a_model_without_an_optimizer_is_refused():
    scaling = LearningRateScaling(warmup_epochs=1)
    scaling.set_params({"steps": 4, "epochs": 3})
    scaling.set_model(keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]))
    with pytest.raises(ValueError, match=r"one optimizer(.|\n)*HINT"):
        scaling.on_train_begin()


def batches():
    while True:
        yield np.ones((16, 1), "f"), np.ones((16, 1), "f")


def test_data_that_does_not_tell_its_batch_size():
    def scaling(**options):
        return LearningRateScaling(reference_batch_size=4, warmup_steps=2, **options)

    def train(callback):
        model = falling()
        model.fit(
            batches(),
            steps_per_epoch=4,
            callbacks=[callback],
            shuffle=False,
            verbose=0,
        )
        return model.history.history["learning_rate"]

    with pytest.raises(ValueError, match=r"not known.*generator(.|\n)*batch_size=256"):
        train(scaling())
    assert train(scaling(batch_size=16)) == [4 * RATE]


def test_epochs_of_unknown_length_need_steps():
    data = tf.data.Dataset.from_generator(
        lambda: iter([(np.ones((4, 1)), np.ones((4, 1)))] * 3),
        output_signature=(tf.TensorSpec((4, 1)),) * 2,
    )
    with pytest.raises(
        ValueError, match=r"warmup_epochs(.|\n)*HINT: Pass warmup_steps"
    ):
        falling().fit(data, callbacks=[LearningRateScaling()], shuffle=False, verbose=0)


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda data: data.batch(16), 16),
        (lambda data: data.batch(16).prefetch(2).repeat(), 16),
        (lambda data: data.batch(16, drop_remainder=True).map(tf.negative), 16),
        (lambda data: data.batch(16).map(tf.negative), None),
    ],
)
def test_batch_size_of_a_dataset(build, expected):
    data = build(tf.data.Dataset.range(57))
    assert arguments.global_batch_size({"x": data}) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"batch_size": 16}, 16),
        ({}, 32),
        ({"steps_per_epoch": 4}, 15),
        ({"x": [1, 2, 3]}, None),
    ],
)
def test_batch_size_of_arrays(given, expected):
    assert arguments.global_batch_size({"x": np.zeros((57, 3))} | given) == expected


def test_compression_begins_where_the_warm_up_ends():
    found = []
    model = falling()
    look = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: found.append(
            compression_start.warmup_steps_of(model.optimizer)
        )
    )
    fit(model, LearningRateScaling(warmup_epochs=1.5), look)
    fit(model, look)
    schedule = keras.optimizers.schedules.CosineDecay(0.0, 9, warmup_target=0.1)
    schedule.warmup_steps = 3
    model.compile(keras.optimizers.SGD(schedule), "mse")
    fit(model, look)
    fit(model, LearningRateScaling(warmup_epochs=0), look)
    assert found == [6, None, 3, 3]
