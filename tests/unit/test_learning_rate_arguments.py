"""What LearningRateScaling is given: written down, found out, or refused."""

import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.scaled_runs import RATE, falling, fit, weight
from tfdist.callbacks import LearningRateScaling, compression_start
from tfdist.strategies import arguments


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
        ({"rule": lambda rate: rate}, "lambda.*a function of the base rate and"),
        ({"after": "never"}, "'never'.*'constant', 'cosine', 'step', 'polynomial'"),
        ({"after": "cosine", "factor": 2}, "no such parameter.*factor"),
        ({"final": 0.5}, "'constant' has no such parameter.*final"),
        ({"after": []}, r"after=\[\]"),
        ({"after": "cosine", "final": 2}, "final.*from 0 to 1"),
        ({"after": "cosine", "final": "none"}, "final.*'none'"),
        ({"after": "cosine", "epochs": "ten"}, "epochs.*'ten'"),
        ({"after": "cosine", "steps": math.nan}, "steps.*nan"),
        ({"after": "polynomial", "power": math.inf}, "power.*inf"),
        ({"after": "step"}, "list of epochs"),
        ({"after": "step", "steps": [math.nan]}, "list of epochs"),
        ({"after": "step", "epochs": [1], "factor": math.inf}, "factor.*inf"),
        ({"after": "step", "epochs": [1], "factor": "half"}, "factor.*'half'"),
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
        ({"rule": lambda b, k: None, "warmup_epochs": 1}, "None for the base rate"),
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
    with pytest.raises(ValueError, match=r"two LearningRateScaling(.|\n)*HINT"):
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
