"""The gradient path in one process, and the mathematics of the shares."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdist
from tfdist.compression.rounds import GATHER, SUM, Wire
from tfdist.errors import TfdistError
from tfdist.gradients import keras_names, losses
from tfdist.gradients.exchange import Stopwatch, timed


def masked(values, mask):
    values = tf.constant(values)
    values._keras_mask = tf.constant(mask)
    return values


def test_denominators_are_those_of_keras():
    """L = sum / denominator, for the loss as Keras computes it."""
    y_true, y_pred = np.zeros((4, 3, 1), "f"), np.ones((4, 3, 1), "f")
    mask = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 1], [0, 0, 0]], bool)
    weight = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9], [1, 1, 1]], "f")
    for reduction in ("sum_over_batch_size", "mean_with_sample_weight"):
        for given_mask in (None, mask):
            for given_weight in (None, weight):
                loss = keras.losses.MeanSquaredError(reduction=reduction)
                total = keras.losses.MeanSquaredError(reduction="sum")
                outputs = tf.constant(y_pred)
                if given_mask is not None:
                    outputs = masked(y_pred, given_mask)
                found = losses.denominator(loss, outputs, given_weight)
                expected = total(y_true, outputs, given_weight) / loss(
                    y_true, outputs, given_weight
                )
                if found is None:
                    assert float(expected) == pytest.approx(
                        12 if given_weight is None else float(expected)
                    )
                else:
                    assert float(found) == pytest.approx(float(expected))


def test_attach_changes_nothing_on_one_replica():
    def trained(attached):
        keras.utils.set_random_seed(1)
        optimizer = keras.optimizers.SGD(
            0.1, global_clipnorm=0.01, gradient_accumulation_steps=2
        )
        if attached:
            tfdist.gradients.attach(optimizer)
        variable = keras.Variable(np.ones(3, "f"))
        for step in range(4):
            optimizer.apply([tf.constant([1.0, 2.0, float(step)])], [variable])
        return variable.numpy()

    np.testing.assert_array_equal(trained(True), trained(False))
    assert not np.array_equal(trained(True), np.ones(3))


def test_attach_keeps_class_configuration_and_file_format(tmp_path):
    optimizer = keras.optimizers.Adam(0.1, clipnorm=1.0)
    before = optimizer.get_config()
    assert tfdist.gradients.attach(optimizer) is optimizer
    assert type(optimizer) is keras.optimizers.Adam
    assert optimizer.get_config() == before
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(optimizer, "mse")
    optimizer.build(model.trainable_variables)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer) is keras.optimizers.Adam


def test_a_renamed_keras_attribute_is_an_error():
    class Changed:
        _clip_gradients = None

    with pytest.raises(TfdistError, match=r"_all_reduce_sum_gradients(.|\n)*HINT"):
        keras_names.require(Changed(), keras_names.OPTIMIZER)


def test_one_optimizer_serves_one_model():
    def model():
        return keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])

    optimizer, first, second = keras.optimizers.SGD(0.1), model(), model()
    tfdist.gradients.attach(optimizer, first)
    tfdist.gradients.attach(optimizer, first)
    with pytest.raises(ValueError, match=r"two models(.|\n)*HINT"):
        tfdist.gradients.attach(optimizer, second)


def test_the_watch_stands_still_while_wires_travel():
    """All of a round at once: they travel at the same time."""
    said = []

    class Watch(Stopwatch):
        def go(self, tensors):
            said.append(("go", tensors))

        def stop(self, tensors):
            said.append(("stop", tensors))

    def rounds():
        first = yield [Wire("a", SUM), Wire("b", GATHER)]
        second = yield [Wire(first[1], SUM)]
        return second

    running = timed(rounds(), Watch())
    assert [wire.tensor for wire in next(running)] == ["a", "b"]
    assert [wire.tensor for wire in running.send(["A", "B"])] == ["B"]
    with pytest.raises(StopIteration) as end:
        running.send(["C"])
    assert end.value.value == ["C"]
    assert said == [
        ("stop", ["a", "b"]),
        ("go", ["A", "B"]),
        ("stop", ["B"]),
        ("go", ["C"]),
    ]
