"""The mathematics of the gradient noise scale, and what the callback refuses."""

import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdist.callbacks import GradientNoiseScale, gradient_noise_scale
from tfdist.gradients import noise


@pytest.mark.parametrize(
    "sizes", [(8, 8), (5, 5, 6), (1, 1, 1, 2), (1,) * 7, (15, 1), (9, 0, 3)]
)
def test_estimates_are_unbiased(sizes):
    """Equal to |G|^2 and tr(S) on average, also where the parts are not equal."""
    draws = np.random.default_rng(1)
    examples, ends = sum(sizes), np.cumsum(sizes)
    true, trials = np.array([1.0, -2.0, 0.5]), 20_000
    gradients = true + draws.normal(scale=2.0, size=(trials, examples, 3))
    shares = [np.arange(examples) < end for end in (0, *ends)]
    masks = np.diff(np.array(shares, float), axis=0)  # [ranks, examples]
    parts = np.einsum("re,ted->trd", masks, gradients) / examples
    signal, trace = noise.estimates(
        tf.constant((parts.sum(1) ** 2).sum(-1)),
        tf.constant((parts**2).sum((1, 2))),
        tf.constant(float(examples), tf.float64),
        tf.constant(float(np.square(sizes).sum()), tf.float64),
    )
    assert np.mean(signal) == pytest.approx(5.25, rel=0.05)
    assert np.mean(trace) == pytest.approx(12.0, rel=0.05)


def test_sparse_gradients_count_a_row_once():
    slices = tf.IndexedSlices(
        tf.ones([3, 2]), tf.constant([4, 1, 4]), tf.constant([9, 2])
    )
    dense = tf.convert_to_tensor(slices)
    assert float(noise.squared_norm([slices])) == float(noise.squared_norm([dense]))
    assert float(noise.squared_norm([slices, dense])) == 20.0


@pytest.mark.parametrize(
    ("scale", "batch", "words"),
    [
        (1000.0, 10.0, r"would help: about 50% of the steps, 101% of the examples"),
        (10.0, 1000.0, r"hardly help: about 100% of the steps, 199% of the examples"),
        (float("nan"), 10.0, r"not known.*HINT"),
    ],
)
def test_advice(scale, batch, words):
    assert re.search(words, gradient_noise_scale.advice(scale, batch))


@pytest.mark.parametrize("decay", [-0.1, 1.0, "0.9", True])
def test_a_wrong_decay_is_refused(decay):
    with pytest.raises(ValueError, match=r"decay(.|\n)*HINT"):
        GradientNoiseScale(decay)


def test_configuration_and_state_round_trip():
    first = GradientNoiseScale(0.9)
    assert GradientNoiseScale.from_config(first.get_config()).decay == 0.9
    assert first.get_state() == {"averages": None}
    first.set_state([json.loads('{"averages": [1.0, 2.0, 3.0, 0.5]}')])
    assert first.get_state() == {"averages": [1.0, 2.0, 3.0, 0.5]}


def test_one_replica_has_nothing_to_compare(caplog):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    ones = np.ones((4, 1))
    history = model.fit(ones, ones, verbose=0, callbacks=[GradientNoiseScale()])
    assert "gradient_noise_scale" not in history.history
    assert caplog.text.count("there is one") == 1
