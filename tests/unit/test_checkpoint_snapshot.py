"""Variables by place, states as JSON and arrays, and what other replicas are given."""

import json
import math

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from tfdist.checkpoint.keys import model_variables, optimizer_variables
from tfdist.checkpoint.replicas import shares
from tfdist.checkpoint.snapshot import Snapshot
from tfdist.checkpoint.states import join, split

layers = keras.layers


class Model(keras.Model):
    """Layers wherever Python keeps things."""

    def __init__(self):
        super().__init__()
        self.listed = [layers.Dense(2), layers.BatchNormalization()]
        self.named = {"a": keras.Sequential([layers.Dense(3), layers.Dropout(0.1)])}
        self.shared = self.listed[0]
        self.frozen = layers.Dense(2, trainable=False, name="b c")

    def call(self, inputs):
        inputs = self.listed[1](self.frozen(self.shared(inputs)))
        return self.named["a"](inputs)


def built(optimizer="adam"):
    model = Model()
    model.compile(keras.optimizers.get(optimizer), "mse")
    model(np.zeros((1, 2)))
    model.optimizer.build(model.trainable_variables)
    return model


PLACES = [
    "model/0.Dense/kernel",
    "model/0.Dense/bias",
    "model/1.BatchNormalization/gamma",
    "model/1.BatchNormalization/beta",
    "model/1.BatchNormalization/moving_mean",
    "model/1.BatchNormalization/moving_variance",
    "model/2.Sequential/1.Dense/kernel",
    "model/2.Sequential/1.Dense/bias",
    "model/2.Sequential/2.Dropout/seed_generator_state",
    "model/3.Dense/kernel",
    "model/3.Dense/bias",
]


@pytest.mark.failure(19)
def test_places_do_not_depend_on_what_was_built_before():
    for _ in range(2):
        model = built()
        weights = model_variables(model)
        assert list(weights) == PLACES
        assert {id(v) for v in weights.values()} == {id(v) for v in model.variables}
        slots = optimizer_variables(model.optimizer, weights)
        assert len(slots) == len(model.optimizer.variables)
        assert "optimizer/momentum/2.Sequential/1.Dense/kernel" in slots
        assert not any("dense" in name or "sequential" in name for name in slots)


def test_two_variables_of_one_name_are_told_apart():
    class Twice(layers.Layer):
        def build(self, shape):
            self.one = self.add_weight(shape=(1,), name="w")
            self.two = self.add_weight(shape=(2,), name="w")

        def call(self, inputs):
            return inputs + self.one

    model = keras.Sequential([keras.Input((1,)), Twice()])
    model.compile(keras.optimizers.SGD(momentum=0.9), "mse")
    model.optimizer.build(model.trainable_variables)
    weights = model_variables(model)
    assert [name[-3:] for name in weights] == ["e/w", "w#1"]
    slots = optimizer_variables(model.optimizer, weights)
    assert len(slots) == len(model.optimizer.variables)


def test_what_replicas_learn_on_their_own_is_saved_by_each():
    common, own = Snapshot(built(), None).capture(metrics=False, common=True)
    names = ("moving_mean", "moving_variance")
    assert {name.rpartition("/")[2] for name in own} == set(names)
    assert common.keys() | own.keys() == set(PLACES)
    apart = Snapshot(built(), None, apart=True).capture(metrics=False, common=True)
    assert apart[0] == {}


@pytest.mark.failure(39)
def test_differences_are_named_and_none_is_missed():
    snapshot = Snapshot(built(), None)
    common, own = snapshot.capture(metrics=False, common=True)
    assert snapshot.differences(common, own, metrics=False) == []
    common["model/4.Dense/kernel"] = common.pop("model/3.Dense/kernel")
    common["model/3.Dense/bias"] = np.zeros(2, "float16")
    own["model/1.BatchNormalization/moving_mean"] = np.zeros((1, 3), "float32")
    assert snapshot.differences(common, own, metrics=False) == [
        "model/1.BatchNormalization/moving_mean: float32[3] in the checkpoint, "
        "float32[2] in the model",
        "model/3.Dense/bias: float16[2] in the checkpoint, float32[2] in the model",
        "model/3.Dense/kernel: only in the model",
        "model/4.Dense/kernel: only in the checkpoint",
    ]


@pytest.mark.failure(36)
@pytest.mark.parametrize("replicas", [1, 2, 3, 4])
def test_other_replicas_are_given_what_keeps_sum_or_mean(replicas):
    saved = [np.float32([[1.0, 2.0]]), np.float32([[3.0, 8.0], [5.0, 5.0]])]
    whole = np.concatenate(saved)
    mean = shares(saved, "model/0.BatchNormalization/moving_mean", replicas)
    parts = shares(saved, "optimizer/gradient_accumulator/0.Dense/bias", replicas)
    total = shares(saved, "metrics/0.total", replicas)
    assert mean.shape == parts.shape == total.shape == (replicas, 2)
    np.testing.assert_allclose(mean.mean(0), whole.mean(0), rtol=1e-6)
    np.testing.assert_allclose(parts.sum(0), whole.sum(0), rtol=1e-6)
    np.testing.assert_allclose(total.sum(0), whole.sum(0), rtol=1e-6)
    if replicas == 3:  # as many as before: to the bit
        for dealt in (mean, parts, total):
            np.testing.assert_array_equal(dealt, whole)


def test_counters_are_not_averaged():
    saved = [np.int64([[4], [4]])]
    np.testing.assert_array_equal(shares(saved, "optimizer/iteration", 3), [[4]] * 3)
    np.testing.assert_array_equal(shares(saved, "metrics/1.count", 3), [[8], [0], [0]])


numbers = some.none() | some.booleans() | some.integers() | some.floats() | some.text()
states_of_callbacks = some.recursive(
    numbers, lambda inner: some.lists(inner) | some.dictionaries(some.text(), inner)
)


@given(states_of_callbacks)
def test_any_state_survives_json(state):
    arrays = {}
    plain = json.loads(json.dumps(split(state, "x", arrays), allow_nan=False))
    again = join(plain, arrays)
    assert repr(again) == repr(state)  # NaN is not equal to itself


def test_arrays_tuples_and_scalars_survive():
    state = {
        "best": np.float32(0.1),
        "weights": [np.arange(3.0), (1, math.inf)],
        "$array": "a key like a mark",
    }
    arrays = {}
    plain = json.loads(json.dumps(split(state, "callbacks/it", arrays)))
    again = join(plain, arrays)
    assert set(arrays) == {"callbacks/it/best", "callbacks/it/weights/0"}
    assert again["best"] == np.float32(0.1)
    assert again["best"].dtype == np.float32
    assert again["weights"][1] == (1, math.inf)
    assert list(again) == list(state)


def test_two_arrays_whose_ways_look_alike_are_two():
    state = {"a/b": np.ones(2), "a": {"b": np.zeros(3)}}
    arrays = {}
    again = join(split(state, "x", arrays), arrays)
    np.testing.assert_array_equal(again["a/b"], np.ones(2))
    np.testing.assert_array_equal(again["a"]["b"], np.zeros(3))


def test_what_cannot_be_saved_is_said():
    with pytest.raises(TypeError, match=r"callbacks/it/odd(.|\n)*HINT"):
        split({"odd": object()}, "callbacks/it", {})
    with pytest.raises(ValueError, match="HINT"):
        join({"$pickle": "no"}, {})
