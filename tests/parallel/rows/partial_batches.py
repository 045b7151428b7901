"""Batches that the replicas cannot share equally, and replicas left with nothing."""

from typing import Any

import keras
import numpy as np

from tests.parallel.registry import Results, row
from tests.parallel.setting import Setting
from tests.parallel.training import (
    batches,
    binary,
    compile_under,
    outcome,
    perceptron,
    regression,
    sgd,
    tokens,
    train,
)

Embedding = keras.layers.Embedding


def with_rows(setting: Setting, rows: int) -> Results:
    """Fit, validate, evaluate and predict on this number of rows."""
    return train(
        setting,
        data=regression(rows),
        validation_data=regression(rows),
        compiled={"metrics": ["mae"]},
        predict=True,
    )


@row("57 rows: the last batch has 9")
def last_batch_9(setting: Setting) -> Results:
    return with_rows(setting, 57)


@row("33 rows: the last batch has 1, ranks are left empty")
def last_batch_1(setting: Setting) -> Results:
    return with_rows(setting, 33)


@row("5 rows: one small batch")
def small_batch(setting: Setting) -> Results:
    return with_rows(setting, 5)


@row("Adam and global_clipnorm, a rank left empty")
def adam_clipped_empty(setting: Setting) -> Results:
    return train(
        setting,
        optimizer=lambda: keras.optimizers.Adam(0.01, global_clipnorm=0.05),
        data=regression(17),
        epochs=3,
    )


@row("AUC and precision, the last batch odd")
def metrics_odd(setting: Setting) -> Results:
    return train(
        setting,
        build=lambda: perceptron(activation="sigmoid"),
        loss="binary_crossentropy",
        data=binary(49),
        compiled={
            "metrics": lambda: [keras.metrics.AUC(num_thresholds=20, name="auc")]
        },
        validation_data=binary(33),
    )


@row("sum reduction, partial last batch and a rank left empty")
def sum_partial(setting: Setting) -> Results:
    return train(
        setting,
        optimizer=lambda: sgd(learning_rate=0.01),
        loss=keras.losses.MeanSquaredError(reduction="sum"),
        data=regression(49),
        validation_data=regression(57),
    )


@row("weighted mean, partial last batch and a rank left empty")
def weighted_mean_partial(setting: Setting) -> Results:
    weights = np.linspace(0.1, 3.0, 49).astype("float32")
    return weighted(setting, weights)


@row("weighted mean, a rank with zero weights only")
def weighted_mean_zero(setting: Setting) -> Results:
    weights = np.linspace(0.1, 3.0, 49).astype("float32")
    weights[8:16] = 0.0
    return weighted(setting, weights)


def weighted(setting: Setting, weights: np.ndarray) -> Results:
    loss = keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")
    model = compile_under(setting, perceptron, sgd, loss)
    data = batches(*regression(len(weights)), weights)
    history = model.fit(data, validation_data=data, epochs=2, verbose=0)
    return outcome(setting, model, history)


def masked_tokens(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return padded ids and a target for each token: the loss is masked."""
    ids, _ = tokens(rows)
    return ids, np.cos(ids[..., None]).astype("float32")


def tagger() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((6,), dtype="int32"),
            Embedding(20, 4, mask_zero=True),
            keras.layers.Dense(1),
        ]
    )


@row("mask_zero: Keras divides by the valid tokens, full batches")
def masked(setting: Setting) -> Results:
    return train(setting, build=tagger, data=masked_tokens(64), evaluate=True)


@row("mask_zero, partial last batch and a rank left empty")
def masked_partial(setting: Setting) -> Results:
    data = masked_tokens(49)
    return train(setting, build=tagger, data=data, validation_data=data)


@row("mask_zero, sample weights, accumulation 2, clipping, partial")
def masked_weighted_accumulated(setting: Setting) -> Results:
    def clipped() -> keras.optimizers.Optimizer:
        return sgd(global_clipnorm=0.05, gradient_accumulation_steps=2)

    model = compile_under(setting, tagger, clipped, "mse")
    ids, targets = masked_tokens(57)
    weights = np.linspace(0.1, 3.0, ids.size).astype("float32").reshape(ids.shape)
    history = model.fit(batches(ids, targets, weights), epochs=2, verbose=0)
    return outcome(setting, model, history)


@row("sum reduction, accumulation 3, partial last batch")
def sum_accumulated(setting: Setting) -> Results:
    def accumulating() -> keras.optimizers.Optimizer:
        return sgd(learning_rate=0.01, gradient_accumulation_steps=3)

    loss = keras.losses.MeanSquaredError(reduction="sum")
    return train(setting, optimizer=accumulating, loss=loss, data=regression(57))


@row("evaluate and predict, a rank left empty")
def evaluate_predict_empty(setting: Setting) -> Results:
    options: dict[str, Any] = {"metrics": ["mae"]}
    model = compile_under(setting, perceptron, sgd, "mse", **options)
    inputs, targets = regression(17)
    return outcome(setting, model, evaluate=(inputs, targets), predict=inputs)
