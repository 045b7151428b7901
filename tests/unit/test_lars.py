"""LARS equals its formula, and leaves biases and normalisation to SGD."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdist
from tfdist.callbacks import LearningRateScaling
from tfdist.optimizers import LARS

RATE, MOMENTUM, DECAY, TRUST = 0.5, 0.9, 0.01, 0.02


def variables():
    draws = np.random.default_rng(2)
    shapes = {"kernel": (4, 3), "bias": (2, 3), "gamma": (3,), "embeddings": (5, 2)}
    return [
        keras.Variable(draws.normal(size=shape), dtype="float32", name=name)
        for name, shape in shapes.items()
    ]


def gradients(step):
    draws = np.random.default_rng(step)
    return [draws.normal(size=v.shape) for v in variables()]


def by_hand(start, slopes, adapted, nesterov=False):
    weights, velocity = start.astype("float64"), np.zeros(start.shape)
    for slope in slopes:
        step = slope
        if adapted:
            size, length = np.linalg.norm(weights), np.linalg.norm(slope)
            part = TRUST * size / (length + DECAY * size)
            step = part * (slope + DECAY * weights)
        velocity = MOMENTUM * velocity + RATE * step
        weights -= MOMENTUM * velocity + RATE * step if nesterov else velocity
    return weights


def lars(**options):
    options = {"weight_decay": DECAY, "trust_coefficient": TRUST} | options
    return LARS(RATE, MOMENTUM, **options)


@pytest.mark.parametrize("nesterov", [False, True])
def test_equals_the_formula(nesterov):
    weights, optimizer = variables(), lars(nesterov=nesterov)
    starts = [variable.numpy() for variable in weights]
    steps = [gradients(step) for step in range(5)]
    for step in steps:
        given = [tf.constant(slope, tf.float32) for slope in step]
        rows = tf.IndexedSlices(given[3], tf.range(5), tf.constant([5, 2]))
        optimizer.apply([*given[:3], rows], weights)
    for place, (variable, start) in enumerate(zip(weights, starts, strict=True)):
        adapted = variable.name in ("kernel", "embeddings")
        slopes = [step[place] for step in steps]
        np.testing.assert_allclose(
            variable.numpy(), by_hand(start, slopes, adapted, nesterov), atol=1e-5
        )
        other = by_hand(start, slopes, not adapted, nesterov)
        assert np.abs(variable.numpy() - other).max() > 1e-2


def test_zeros_are_updated_as_by_sgd():
    zero, one = keras.Variable(np.zeros((2, 2))), keras.Variable(np.ones((2, 2)))
    optimizer = lars()  # the decay is left out, too
    optimizer.apply([tf.ones((2, 2)), tf.zeros((2, 2))], [zero, one])
    np.testing.assert_allclose(zero.numpy(), np.full((2, 2), -RATE))
    np.testing.assert_allclose(one.numpy(), np.ones((2, 2)))


def test_names_to_exclude():
    weights = variables()
    optimizer = lars(exclude=["kernel"])
    optimizer.apply([tf.ones(v.shape) for v in weights], weights)
    expected = by_hand(variables()[0].numpy(), [np.ones((4, 3))], adapted=False)
    np.testing.assert_allclose(weights[0].numpy(), expected, atol=1e-6)


def test_a_saved_model_goes_on(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    model.compile(lars(global_clipnorm=1.0), "mse")
    data = np.ones((4, 2)), np.ones((4, 3))
    model.fit(*data, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer) is tfdist.optimizers.LARS
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    for each in (model, loaded):
        each.fit(*data, verbose=0)
    for variable, other in zip(model.variables, loaded.variables, strict=True):
        np.testing.assert_array_equal(variable.numpy(), other.numpy())


def test_scaling_corrects_its_momentum():
    """Its velocity holds the rate, like that of SGD."""

    def moved(corrected):
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        model.set_weights([np.ones((1, 1)), np.zeros(1)])
        model.compile(LARS(0.5), "mse")
        scaling = LearningRateScaling(
            reference_batch_size=1, warmup_epochs=1, momentum_correction=corrected
        )
        ones = np.ones((8, 1))
        model.fit(ones, ones / 2, batch_size=2, verbose=0, callbacks=[scaling])
        return model.get_weights()[0].item()

    assert moved(True) != moved(False)


@pytest.mark.parametrize(
    "options",
    [
        {"weight_decay": -0.1},
        {"trust_coefficient": 0.0},
        {"exclude": "kernel"},
        {"exclude": None},
    ],
)
def test_bad_arguments(options):
    with pytest.raises(ValueError, match=rf"{next(iter(options))}(.|\n)*HINT"):
        LARS(**options)
