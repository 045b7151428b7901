"""The small models and data of the programs."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf


def regression(rows: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs (rows, 4) and targets (rows, 1), equal on every rank."""
    generator = np.random.default_rng(7)
    inputs = generator.normal(size=(rows, 4)).astype("float32")
    return inputs, np.tanh(inputs.sum(1, keepdims=True))


def batches(
    rows: int = 16, size: int = 8, drop_remainder: bool = True
) -> tf.data.Dataset:
    """Return `regression` in global batches, whose size is known where none is less."""
    dataset = tf.data.Dataset.from_tensor_slices(regression(rows))
    return dataset.batch(size, drop_remainder=drop_remainder)


def dense(*units: int) -> keras.Model:
    """Return a perceptron of 4 inputs, these hidden units and 1 output."""
    layers = [keras.layers.Dense(count, activation="tanh") for count in units]
    return keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(1)])


def compiled(
    strategy: tf.distribute.Strategy,
    units: Sequence[int] = (3,),
    optimizer: Any = None,
    **options: Any,
) -> keras.Model:
    """Return a perceptron that was built and compiled under the strategy."""
    with strategy.scope():
        model = dense(*units)
        model.compile(optimizer or keras.optimizers.SGD(0.1), "mse", **options)
    return model
