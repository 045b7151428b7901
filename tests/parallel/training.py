"""The rows' shared models and data, and what of a training run is compared."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tests.parallel.registry import Results
from tests.parallel.setting import GLOBAL_BATCH, Setting

Data = tuple[np.ndarray, np.ndarray]  # inputs and targets


def regression(rows: int = 64) -> Data:
    """Return inputs (rows, 8) and targets (rows, 1), equal on every rank."""
    generator = np.random.default_rng(7)
    inputs = generator.normal(size=(rows, 8)).astype("float32")
    targets = np.tanh(inputs @ generator.normal(size=(8, 1))).astype("float32")
    return inputs, targets


def binary(rows: int = 64) -> Data:
    """Return inputs (rows, 8) and labels 0.0 or 1.0 of shape (rows, 1)."""
    inputs, targets = regression(rows)
    return inputs, (targets > 0).astype("float32")


def classes(rows: int = 64, count: int = 3) -> Data:
    """Return inputs (rows, 8) and integer labels (rows,)."""
    inputs, targets = regression(rows)
    return inputs, np.digitize(targets[:, 0], [-0.5, 0.5][: count - 1])


def tokens(rows: int = 64, length: int = 6) -> Data:
    """Return padded token ids (rows, length), 0 being padding, and targets (rows, 1).

    Sequences have 1 to `length` tokens, so that replicas hold different numbers.
    """
    generator = np.random.default_rng(11)
    ids = generator.integers(1, 20, size=(rows, length))
    lengths = generator.integers(1, length + 1, size=rows)
    ids[np.arange(length) >= lengths[:, None]] = 0
    targets = np.sin(ids.sum(axis=1, keepdims=True)).astype("float32")
    return ids.astype("int32"), targets


def perceptron(units: int = 1, activation: str | None = None) -> keras.Model:
    """Return the 8-6-1 model that most rows train."""
    return keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(6, activation="tanh"),
            keras.layers.Dense(units, activation=activation),
        ]
    )


def sgd(**options: Any) -> keras.optimizers.Optimizer:
    """Return the rows' usual optimizer."""
    return keras.optimizers.SGD(**{"learning_rate": 0.1, "momentum": 0.9} | options)


def batches(*arrays: Any) -> tf.data.Dataset:
    """Return a dataset of global batches in the arrays' order."""
    return tf.data.Dataset.from_tensor_slices(arrays).batch(GLOBAL_BATCH)


def compile_under(
    setting: Setting,
    build: Callable[[], keras.Model],
    optimizer: Callable[[], keras.optimizers.Optimizer],
    loss: Any,
    metrics: Any = None,
    **options: Any,
) -> keras.Model:
    """Build and compile inside the strategy's scope, as a user does."""
    with setting.scope():
        model = build()
        metrics = metrics() if callable(metrics) else metrics
        model.compile(optimizer=optimizer(), loss=loss, metrics=metrics, **options)
    return model


def train(
    setting: Setting,
    *,
    build: Callable[[], keras.Model] = perceptron,
    optimizer: Callable[[], keras.optimizers.Optimizer] = sgd,
    loss: Any = "mse",
    data: tuple[Any, Any] | None = None,
    evaluate: bool = False,
    predict: bool = False,
    compiled: dict[str, Any] | None = None,
    **fit: Any,
) -> Results:
    """Compile, fit two epochs in order, and return what must be equal."""
    model = compile_under(setting, build, optimizer, loss, **(compiled or {}))
    inputs, targets = regression() if data is None else data
    fit = {"epochs": 2, "batch_size": GLOBAL_BATCH, "shuffle": False} | fit
    history = model.fit(inputs, targets, verbose=0, **fit)
    return outcome(
        setting,
        model,
        history,
        evaluate=(inputs, targets) if evaluate else None,
        predict=inputs if predict else None,
    )


def outcome(
    setting: Setting,
    model: keras.Model,
    history: keras.callbacks.History | None = None,
    *,
    evaluate: Any = None,
    predict: Any = None,
) -> Results:
    """Return all that must be equal after training.

    That is weights, optimizer variables, history, and on request what `evaluate` and
    `predict` give. `evaluate` and `predict` hold arrays (batched here) or a dataset.
    """
    results: Results = {}
    if history is not None:
        for key, values in history.history.items():
            results[f"history/{key}"] = np.asarray(values, "float64")
    if evaluate is not None:
        arguments = evaluate if isinstance(evaluate, tuple) else (evaluate,)
        options = {} if len(arguments) == 1 else {"batch_size": GLOBAL_BATCH}
        logs = model.evaluate(*arguments, return_dict=True, verbose=0, **options)
        for key, value in logs.items():
            results[f"evaluate/{key}"] = np.asarray(value, "float64")
    if predict is not None:
        options = {} if isinstance(predict, tf.data.Dataset) else {"batch_size": 16}
        parts = tf.nest.flatten(model.predict(predict, verbose=0, **options))
        for index, part in enumerate(parts):
            results[f"predict/{index}"] = as_float(part)
    variables = named_variables(model)
    for key, variable in variables.items():
        results[key] = as_float(variable.numpy())
    results["replicas/gap"] = np.float64(replica_gap(setting, variables.values()))
    return results


def named_variables(model: keras.Model) -> dict[str, keras.Variable]:
    """Return the model's and the optimizer's variables that runs must agree on.

    Accumulators are left out: between two updates each replica rightly holds its own
    part. Random states are the subject of their own rows.
    """
    found = {
        f"weights/{index}.{variable.name}": variable
        for index, variable in enumerate(model.weights)
        if variable.name != "seed_generator_state"
    }
    # An optimizer that made no step may or may not have been built.
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None or optimizer.iterations.numpy() == 0:
        return found
    for index, variable in enumerate(optimizer.variables):
        if "gradient_accumulator" not in variable.path:
            found[f"optimizer/{index}.{variable.name}"] = variable
    return found


def replica_gap(setting: Setting, variables: Any) -> float:
    """Return the largest difference between this process's replicas of a variable."""
    if setting.strategy is None:
        return 0.0
    gap = 0.0
    for variable in variables:
        copies = setting.strategy.experimental_local_results(variable.value)
        values = [as_float(np.asarray(copy)) for copy in copies]
        for value in values[1:]:
            if not np.array_equal(value, values[0], equal_nan=True):
                gap = max(gap, float(np.max(np.abs(value - values[0]))))
    return gap


def as_float(value: Any) -> np.ndarray:
    """Return float64: it holds every 16- and 32-bit value exactly, bfloat16 too."""
    return np.asarray(value).astype("float64")
