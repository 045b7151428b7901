"""What each process of the self-test does, one function a check.

Each returns arrays. All ranks have to return the same bytes; the arrays of a
compared check have to equal those of plain Keras in one process, too, which runs
the same function without a strategy.
"""

from __future__ import annotations

import contextlib
import warnings
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tfdist

Arrays = dict[str, np.ndarray]

ROWS = 57  # the last batch has 9 rows, which two ranks cannot share evenly
GLOBAL_BATCH = 16
EPOCHS = 2
SEED = 1234
# One number; many; and more than one buffer of any library, of odd length.
SIZES = (1, 1000, 300_001)


class WrongResultError(Exception):
    """A check that judges itself found a wrong number."""


@dataclass(frozen=True)
class Place:
    """Where a check runs."""

    strategy: tf.distribute.Strategy | None  # None: plain Keras, the reference
    rank: int = 0  # of this process

    def scope(self) -> AbstractContextManager[Any]:
        """Where models are built and compiled."""
        return (
            contextlib.nullcontext() if self.strategy is None else self.strategy.scope()
        )


def collectives(place: Place) -> Arrays:
    """Sums, means and gathers numbers whose results are known."""
    strategy = place.strategy
    if strategy is None:
        return {}
    replicas = strategy.num_replicas_in_sync
    found: Arrays = {}
    for size in SIZES:
        # Whole numbers that float32 holds exactly, also when summed.
        pattern = np.arange(size, dtype="float32") % 251 + 1
        total, mean = _reduced(strategy, pattern)
        found[f"sum of {size} numbers"] = total
        found[f"mean of {size} numbers"] = mean
        _expect(
            f"the sum of {size} numbers", pattern * sum(range(1, replicas + 1)), total
        )
        _expect(f"the mean of {size} numbers", pattern * (replicas + 1) / 2, mean)
    found["gathered rows"] = rows = _gathered(strategy)
    expected = [each for each in range(replicas) for _ in range(each + 1)]
    _expect("the gathered rows", np.asarray(expected, "int32"), rows)
    return found


def broadcast(place: Place) -> Arrays:
    """Starts each rank from weights of its own, which rank 0's have to replace."""
    model = _model(place, seed=SEED + place.rank)
    model.evaluate(*_data(), batch_size=GLOBAL_BATCH, verbose=0)
    return _weights(model)


def fit(place: Place) -> Arrays:
    """Trains; momentum and clipping show a gradient that is averaged wrongly."""
    model = _model(place, seed=SEED)
    history = model.fit(
        *_data(), batch_size=GLOBAL_BATCH, epochs=EPOCHS, shuffle=False, verbose=0
    )
    found = _weights(model)
    for number, variable in enumerate(model.optimizer.variables):
        found[f"optimizer {number} ({variable.name})"] = np.asarray(variable.numpy())
    for name, values in history.history.items():
        found[f"history of {name}"] = np.asarray(values, "float64")
    return found


def predict(place: Place) -> Arrays:
    """Predicts rows that all differ, so that a wrong order shows."""
    model = _model(place, seed=SEED)
    inputs, _ = _data()
    predicted = model.predict(inputs, batch_size=GLOBAL_BATCH, verbose=0)
    return {"predictions": np.asarray(predicted)}


def compression(place: Place) -> Arrays:
    """Trains with gradients that are taken apart, sent, and put together whole."""
    model = _model(place, seed=SEED)
    compress = tfdist.callbacks.GradientCompression(
        "topk", ratio=1.0, start_step=0, min_size=0, log=False
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # more bytes than without, as is wanted here
        model.fit(
            *_data(),
            batch_size=GLOBAL_BATCH,
            shuffle=False,
            verbose=0,
            callbacks=[compress],
        )
    return _weights(model)


def _reduced(strategy: Any, pattern: np.ndarray) -> list[np.ndarray]:
    """Returns the sum and the mean, over the replicas, of (replica + 1) * pattern."""

    def on_replica() -> Any:
        context = tf.distribute.get_replica_context()
        number = tf.cast(context.replica_id_in_sync_group, tf.float32) + 1.0
        value = number * tf.constant(pattern)
        return context.all_reduce("SUM", value), context.all_reduce("MEAN", value)

    results = tf.function(lambda: strategy.run(on_replica))()
    return [strategy.experimental_local_results(each)[-1].numpy() for each in results]


def _gathered(strategy: Any) -> np.ndarray:
    """Returns all replicas' rows; replica r has r + 1 rows, each of them r."""

    def on_replica() -> Any:
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        replica = tf.cast(replica, tf.int32)
        return tf.fill([replica + 1], replica)

    rows = strategy.gather(tf.function(lambda: strategy.run(on_replica))(), axis=0)
    return np.asarray(rows.numpy())


def _expect(what: str, expected: np.ndarray, received: np.ndarray) -> None:
    if expected.shape != received.shape:
        raise WrongResultError(
            f"{what}: expected {expected.shape}, received {received.shape}"
        )
    wrong = np.flatnonzero(~np.isclose(received, expected, rtol=1e-6, atol=0.0))
    if wrong.size:
        first = wrong[0]
        raise WrongResultError(
            f"{what}: expected {expected[first]:g} at {first}, "
            f"received {received[first]:g} ({wrong.size} of {expected.size} wrong)"
        )


def _data() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(SEED)
    inputs = random.normal(size=(ROWS, 8)).astype("float32")
    return inputs, np.sin(inputs.sum(axis=1, keepdims=True))


def _model(place: Place, seed: int) -> keras.Model:
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(seed)
    with place.scope():
        model = keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(6, activation="tanh"),
                keras.layers.Dense(1),
            ]
        )
        optimizer = keras.optimizers.SGD(0.1, momentum=0.9, global_clipnorm=0.5)
        model.compile(optimizer, "mse")
    return model


def _weights(model: keras.Model) -> Arrays:
    return {
        f"weights {number} ({variable.path})": np.asarray(variable.numpy())
        for number, variable in enumerate(model.weights)
    }
