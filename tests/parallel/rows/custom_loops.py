"""Training loops of the user's own, on the strategy's public methods."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tests.parallel.registry import Needs, Results, row
from tests.parallel.setting import GLOBAL_BATCH, Setting
from tests.parallel.training import batches, outcome, perceptron, regression, sgd


def tape_loop(setting: Setting, rows: int, **options: Any) -> Results:
    """Train two epochs with tf.GradientTape; the loss sums over the global batch."""
    strategy = setting.distribution
    with setting.scope():
        model = perceptron()
        optimizer = sgd(**options)
        optimizer.build(model.trainable_variables)
        setting.attach(optimizer)
    data = strategy.experimental_distribute_dataset(batches(*regression(rows)))

    def replica_step(inputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            errors = tf.square(model(inputs, training=True) - targets)
            loss = tf.reduce_sum(errors) / GLOBAL_BATCH
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        return loss

    @tf.function
    def step(batch: Any) -> tf.Tensor:
        losses = strategy.run(replica_step, args=batch)
        return strategy.reduce("SUM", losses, axis=None)

    losses = [float(step(batch)) for _ in range(2) for batch in data]
    model.optimizer = optimizer
    return outcome(setting, model) | {"history/loss": np.asarray(losses)}


@row("GradientTape loop with strategy.run", needs=Needs.STRATEGY)
def tape(setting: Setting) -> Results:
    return tape_loop(setting, 64)


@row(
    "GradientTape loop, clipping, accumulation 2, partial last batch",
    needs=Needs.STRATEGY,
)
def tape_clipped(setting: Setting) -> Results:
    return tape_loop(setting, 57, global_clipnorm=0.05, gradient_accumulation_steps=2)


@row("strategy.run, reduce (sum, mean) and gather", needs=Needs.STRATEGY)
def reduce_and_gather(setting: Setting) -> Results:
    strategy = setting.distribution
    with setting.scope():
        model = perceptron()
    inputs, targets = regression(48)
    data = strategy.experimental_distribute_dataset(batches(inputs, targets))

    @tf.function
    def outputs(batch: Any) -> Any:
        return strategy.run(model, args=(batch[0],))

    rows, totals, means = [], [], []
    for batch in data:
        values = outputs(batch)
        rows.append(strategy.gather(values, axis=0).numpy())
        totals.append(strategy.reduce("SUM", values, axis=0).numpy())
        means.append(strategy.reduce("MEAN", values, axis=0).numpy())
    return {
        "predict/rows": np.concatenate(rows).astype("float64"),
        "predict/totals": np.asarray(totals, "float64"),
        "predict/means": np.asarray(means, "float64"),
        "predict/direct": keras.ops.convert_to_numpy(model(inputs)).astype("float64"),
    }
