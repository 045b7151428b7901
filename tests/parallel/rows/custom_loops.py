"""Training loops of the user's own, on the strategy's public methods."""

import gc
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tests.parallel.registry import Needs, Results, row
from tests.parallel.setting import GLOBAL_BATCH, Setting
from tests.parallel.training import batches, outcome, perceptron, regression, sgd


def tape_loop(
    setting: Setting, rows: int, attached: bool = True, **options: Any
) -> Results:
    """Train two epochs with tf.GradientTape; the loss sums over the global batch."""
    strategy = setting.distribution
    with setting.scope():
        model = perceptron()
        optimizer = sgd(**options)
        if attached:
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


@row("GradientTape loop, nothing attached, ranks seeded apart", needs=Needs.TFDIST)
def tape_unattached(setting: Setting) -> Results:
    keras.utils.set_random_seed(1 + setting.rank)
    options = {"global_clipnorm": 0.05, "gradient_accumulation_steps": 2}
    return tape_loop(setting, 57, attached=False, **options)


@row(
    "GradientTape loop run eagerly, ranks seeded apart",
    compared=False,
    needs=Needs.TFDIST,
)
def tape_eager(setting: Setting) -> Results:
    """Unequal weights come to light after the first step."""
    keras.utils.set_random_seed(1 + setting.rank)
    tf.config.run_functions_eagerly(True)
    try:
        if setting.size == 1:
            return tape_loop(setting, 16, attached=False)
        held = None
        try:
            tape_loop(setting, 16, attached=False)
        except ValueError as error:
            assert "HINT: Call tfdist.gradients.attach(opt" in str(error), error
            held = error if setting.rank == 0 else None  # and with it the optimizer
        else:
            raise AssertionError("weights of each rank's own were trained")
    finally:
        tf.config.run_functions_eagerly(False)
    gc.collect()
    reduce_and_gather(setting)  # no matter which rank still has that optimizer
    del held
    return {}


@row("GradientTape loop after one that never ran, garbage on one rank")
def tape_after_garbage(setting: Setting) -> Results:
    """Python collects cyclic garbage at a time of its own on each rank."""
    with setting.scope():
        left = sgd()
        left.build(perceptron().trainable_variables)
        setting.attach(left)
    gc.disable()
    try:
        del left  # its hooks and it refer to one another
        if setting.rank == 0:
            gc.collect()
        return tape_loop(setting, 64)
    finally:
        gc.enable()


class TwoOptimizers(keras.Model):
    """Trains two layers, each with an optimizer and a loss of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = (keras.layers.Dense(1) for _ in range(2))
        self.loss_object = keras.losses.MeanAbsoluteError()

    def call(self, inputs: Any) -> Any:
        return self.left(inputs) + self.right(inputs[:, :4])

    def train_step(self, data: Any) -> Any:
        inputs, targets = data
        with tf.GradientTape(persistent=True) as tape:
            left = self.loss_object(targets, self.left(inputs))
            left = self.scaled.scale_loss(left)
            right = self.loss_object(targets, self.right(inputs[:, :4]))
        weights = self.left.trainable_variables
        self.scaled.apply(tape.gradient(left, weights), weights)
        weights = self.right.trainable_variables
        self.clipped.apply(tape.gradient(right, weights), weights)
        return {"steps": tf.ones(())}


@row("train_step with two optimizers: clipping, overflow on one rank")
def two_optimizers(setting: Setting) -> Results:
    with setting.scope():
        model = TwoOptimizers()
        model(np.zeros((1, 8), "float32"))
        model.compile()
        model.scaled = keras.optimizers.LossScaleOptimizer(sgd(), initial_scale=2.0**15)
        model.scaled.build(model.left.trainable_variables)
        model.clipped = sgd(global_clipnorm=0.05)
        model.clipped.build(model.right.trainable_variables)
    inputs, targets = regression(57)
    inputs[[18, 47], 7] = 1e36  # first the first rank's, later the last's
    model.fit(batches(inputs, targets), verbose=0)
    return outcome(setting, model)


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
