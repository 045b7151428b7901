"""Repeats the same training steps, and reports how many different results came out."""

import hashlib
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tests.guarantees.place import Place, main

# Kernels of 160 kB, 100 kB and 40 kB between small ones and biases.
UNITS = (200, 200, 125, 80, 16, 3)


def digest(arrays: Iterable[Any]) -> str:
    """Return a hash of every byte."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(np.asarray(array).tobytes())
    return total.hexdigest()


def five_steps(place: Place, repeats: int) -> Any:
    """The digests of all weights after the same five steps, again and again.

    The last of them is the negative control: one weight starts one bit higher.
    """
    with place.strategy.scope():
        model = keras.Sequential([keras.layers.Dense(units) for units in UNITS])
        model.compile(keras.optimizers.Adam(0.01), "mse")
        model.build((None, UNITS[0]))
        model.optimizer.build(model.trainable_variables)
    generator = np.random.default_rng(3)
    inputs = generator.normal(size=(45, UNITS[0])).astype("float32")
    targets = generator.normal(size=(45, UNITS[-1])).astype("float32")
    data = tf.data.Dataset.from_tensor_slices((inputs, targets))
    data = data.batch(9, drop_remainder=True).cache()
    variables = [*model.variables, *model.optimizer.variables]
    initial: list[np.ndarray] = []
    found = []
    for run in range(repeats + 2):
        model.fit(data, verbose=0)
        found.append(digest(variables))
        if not initial:  # rank 0's weights have arrived: start again from what they are
            initial = [np.array(variable) for variable in variables]
        for variable, value in zip(variables, initial, strict=True):
            variable.assign(value)
        if run == repeats:
            kernel = initial[0].copy()
            kernel[0, 0] = np.nextafter(kernel[0, 0], np.inf, dtype=kernel.dtype)
            variables[0].assign(kernel)
    return found[1:]


def thirty(place: Place) -> Any:
    return five_steps(place, 30)


def hundred(place: Place) -> Any:
    return five_steps(place, 100)


def separate_reductions(place: Place) -> Any:
    """The control: one of Horovod's own all-reduces a tensor, fused as it likes."""
    import horovod.tensorflow as horovod

    horovod.init()
    generator = np.random.default_rng(horovod.rank())
    tensors = [
        tf.constant(generator.normal(size=shape).astype("float32"))
        for before, after in zip(UNITS, UNITS[1:], strict=False)
        for shape in ((before, after), (after,))
    ]

    @tf.function
    def step() -> list[tf.Tensor]:
        return [
            horovod.allreduce(tensor, op=horovod.Sum, name=f"tensor{number}")
            for number, tensor in enumerate(tensors)
        ]

    return [digest(step()) for _ in range(500)]


if __name__ == "__main__":
    main(thirty, hundred, separate_reductions)
