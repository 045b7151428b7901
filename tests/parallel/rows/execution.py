"""How Keras runs the steps: several an execution, eagerly, compiled by XLA."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tests.parallel.registry import Needs, Results, row
from tests.parallel.setting import Setting
from tests.parallel.training import (
    batches,
    compile_under,
    outcome,
    perceptron,
    regression,
    sgd,
    train,
)


def four_a_time(setting: Setting, rows: int, **options: Any) -> Results:
    """Fit, evaluate and predict, four steps an execution."""
    return train(
        setting,
        data=regression(rows),
        compiled={"steps_per_execution": 4, "metrics": ["mae"]},
        **options,
    )


@row("steps_per_execution 4, 6 steps: fit, evaluate, predict")
def steps_per_execution(setting: Setting) -> Results:
    return four_a_time(setting, 96, evaluate=True, predict=True)


@row("steps_per_execution 4, a partial last batch, validation")
def steps_per_execution_partial(setting: Setting) -> Results:
    return four_a_time(setting, 89, validation_data=regression(89), predict=True)


@row("steps_per_execution 4, accumulation 2, clipping")
def steps_per_execution_accumulation(setting: Setting) -> Results:
    return four_a_time(
        setting,
        96,
        optimizer=lambda: sgd(gradient_accumulation_steps=2, global_clipnorm=0.05),
    )


@row("steps_per_execution 4, LossScaleOptimizer, EMA overwrite")
def steps_per_execution_loss_scale(setting: Setting) -> Results:
    return four_a_time(
        setting,
        96,
        optimizer=lambda: keras.optimizers.LossScaleOptimizer(
            sgd(use_ema=True, ema_momentum=0.8, ema_overwrite_frequency=3)
        ),
    )


@row("run_eagerly")
def run_eagerly(setting: Setting) -> Results:
    return train(
        setting,
        data=regression(32),
        compiled={"run_eagerly": True},
        evaluate=True,
        predict=True,
    )


@row("strategy.run of a tf.function; numpy arguments", needs=Needs.TFDIST)
def run_function(setting: Setting) -> Results:
    """Called eagerly, with a partial last batch."""
    strategy = setting.distribution
    with setting.scope():
        model, optimizer = perceptron(), sgd(global_clipnorm=0.05)
        optimizer.build(model.trainable_variables)
        loss_object = keras.losses.MeanSquaredError()

    @tf.function
    def step(inputs: tf.Tensor, targets: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            loss = loss_object(targets, model(inputs, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)

    for batch in strategy.experimental_distribute_dataset(batches(*regression(57))):
        strategy.run(step, args=batch)

    def total(values: Any, factor: float) -> Any:
        if tf.reduce_sum(values) < 0:  # autograph's, in the tf.function
            values = -values
        context = tf.distribute.get_replica_context()
        return context.all_reduce("SUM", factor * tf.reduce_sum(values))

    arguments = {"args": (-np.ones((4, 2), "float32"),), "kwargs": {"factor": 0.5}}
    totals = [
        strategy.experimental_local_results(strategy.run(function, **arguments))[0]
        for function in (tf.function(total), total)
    ]
    model.optimizer = optimizer
    numbers = np.asarray(totals, "float64") / setting.replicas
    return outcome(setting, model) | {"predict/totals": numbers}


@row("run_eagerly: single batches; predict of a model never compiled")
def single_batches(setting: Setting) -> Results:
    inputs, targets = regression(16)
    model = compile_under(setting, perceptron, sgd, "mse", run_eagerly=True)
    model.train_on_batch(inputs, targets)  # every rank's batch
    predicted = np.asarray(model.predict_on_batch(inputs))[:16]
    with setting.scope():
        plain = perceptron()
    return outcome(setting, model) | {
        "predict/batch": predicted.astype("float64"),
        "predict/plain": plain.predict(inputs, verbose=0).astype("float64"),
    }


@row("jit_compile=True", may_refuse=True)
def jit_compile(setting: Setting) -> Results:
    return train(setting, compiled={"jit_compile": True})
