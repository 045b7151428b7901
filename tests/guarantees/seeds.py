"""Counts which examples the ranks have seen, and looks at their random draws."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tfdist
from tests.guarantees.place import Place, main

EXAMPLES = 23  # no multiple of the batch size, nor of the ranks


def times_seen(place: Place, data: Any, **options: Any) -> list[list[int]]:
    """Return how often each example was seen in each of two epochs, over all ranks.

    The examples are one-hot, the loss is the sum of the outputs: each example adds
    exactly 1 to the gradient of its own weight.
    """
    with place.strategy.scope():
        output = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
        model = keras.Sequential([keras.Input((EXAMPLES,)), output])
        loss = keras.losses.MeanAbsoluteError(reduction="sum")
        model.compile(keras.optimizers.SGD(1.0), loss)
    seen: list[list[int]] = []

    def count(epoch: int, logs: Any) -> None:
        (kernel,) = model.get_weights()
        seen.append((kernel[:, 0] - np.sum(seen, axis=0)).round().astype(int).tolist())

    callback = keras.callbacks.LambdaCallback(on_epoch_end=count)
    model.fit(data, epochs=2, verbose=0, callbacks=[callback], **options)
    return seen


def examples() -> tuple[np.ndarray, np.ndarray]:
    # The target is out of reach, so the error's gradient is -1 throughout.
    ones = np.eye(EXAMPLES, dtype="float32")
    return ones, np.full((EXAMPLES, 1), 1e3, "float32")


def shuffled_arrays(place: Place) -> Any:
    keras.utils.set_random_seed(1 + place.rank)  # every rank its own
    inputs, targets = examples()
    options = {"batch_size": 5, "shuffle": True}
    return times_seen(place, inputs, y=targets, **options)


def unseeded_arrays(place: Place) -> Any:
    tf.random.set_seed(None)
    inputs, targets = examples()
    options = {"batch_size": 5, "shuffle": True}
    return times_seen(place, inputs, y=targets, **options)


def differently_shuffled(place: Place) -> Any:
    """The negative control: each rank takes its rows of an order of its own."""
    order = np.random.default_rng(place.rank).permutation(EXAMPLES)
    inputs, targets = examples()
    return times_seen(place, inputs[order], y=targets[order], batch_size=5)


class Witness(keras.layers.Layer):
    """Notes what passes through it on this rank."""

    def __init__(self) -> None:
        super().__init__()
        self.passed: list[Any] = []

    def call(self, inputs: Any) -> Any:
        def note(value: np.ndarray) -> np.ndarray:
            self.passed.append(value.tolist())
            return value

        outputs = tf.numpy_function(note, [inputs], inputs.dtype)
        outputs.set_shape(inputs.shape)
        return tf.stop_gradient(outputs)


def masks(place: Place, layer: type, amount: float, seed: int) -> Any:
    tfdist.set_seed(seed)
    with place.strategy.scope():
        witness = Witness()
        layers = [layer(amount), witness, keras.layers.Dense(1)]
        model = keras.Sequential([keras.Input((64,)), *layers])
        model.compile("sgd", "mse")
    data = np.ones((8, 64), "float32"), np.ones((8, 1), "float32")
    model.fit(*data, batch_size=4, shuffle=False, verbose=0)
    return witness.passed


def dropout(place: Place) -> Any:
    return [masks(place, keras.layers.Dropout, 0.5, seed) for seed in (5, 5, 6)]


def noise(place: Place) -> Any:
    return [masks(place, keras.layers.GaussianNoise, 0.5, seed) for seed in (5, 5, 6)]


def dropout_in_a_loop(place: Place) -> Any:
    """The replicas' masks in a loop of the user's own, one row for each replica."""

    def masks_of_all(seed: int) -> Any:
        tfdist.set_seed(seed)
        with place.strategy.scope():
            layer = keras.layers.Dropout(0.5)

        @tf.function
        def program() -> Any:
            return place.strategy.run(lambda: layer(tf.ones([1, 64]), training=True))

        return place.strategy.gather(program(), axis=0).numpy()

    return [masks_of_all(seed) for seed in (5, 5, 6)]


if __name__ == "__main__":
    main(
        shuffled_arrays,
        unseeded_arrays,
        differently_shuffled,
        dropout,
        noise,
        dropout_in_a_loop,
    )
