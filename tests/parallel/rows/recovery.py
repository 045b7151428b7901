"""Runs that are broken off in mid-epoch and go on: bit for bit what they would be.

Each row trains a model as a whole, then one that is broken off by an exception, then a
new one from the checkpoint, and compares every replica's variables and the history.
"""

from functools import partial
from typing import Any

import keras
import tensorflow as tf

from tests.parallel.registry import Needs, Results, row
from tests.parallel.setting import Setting
from tests.parallel.training import regression
from tests.resumed_runs import (
    Run,
    forgetting,
    forgetting_residuals,
    forgetting_the_batch,
)

recovery_row = partial(row, needs=Needs.TFDIST, compared=False)
layers = keras.layers


class Nested(keras.Model):
    """Layers in a list and a dict, nested, shared and frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = [layers.Dense(6, activation="tanh"), layers.BatchNormalization()]
        inner = keras.Sequential([layers.Dense(6), layers.Dropout(0.3)])
        self.others = {"inner": inner, "last": layers.Dense(1)}
        self.shared = layers.Dense(6)
        self.frozen = layers.Dense(6, trainable=False)

    def call(self, inputs: Any, training: bool = False) -> Any:
        for part in self.parts:
            inputs = part(inputs, training=training)
        inputs = self.shared(self.frozen(self.shared(inputs)))
        inputs = self.others["inner"](inputs, training=training)
        return self.others["last"](inputs)


def shuffled(rows: int = 57) -> tf.data.Dataset:
    data = tf.data.Dataset.from_tensor_slices(regression(rows))
    return data.shuffle(64, seed=3).batch(16)


@recovery_row(
    "nested layers, dropout, batch statistics, EMA, shuffled",
    proves=(19, 20, 22, 23, 26),
)
def recovery_everything(setting: Setting) -> Results:
    run = Run(
        setting,
        build=Nested,
        optimizer=lambda: keras.optimizers.AdamW(0.01, use_ema=True, ema_momentum=0.8),
        data=shuffled,
        compiled={"metrics": ["mae"]},
        validation_data=regression(20),
    )
    results = run.check()
    run.check_control(forgetting("*/seed_generator_state"))
    run.check_control(forgetting_the_batch())
    return results


def compressed(**options: Any) -> Any:
    import tfdist

    options = {"start_step": 2, "min_size": 0} | options
    return tfdist.callbacks.GradientCompression(**options)


@recovery_row("top-k with residuals", proves=(25,))
def recovery_residuals(setting: Setting) -> Results:
    run = Run(setting, lambda: [compressed(compressor="topk", ratio=0.1)])
    results = run.check()
    if setting.replicas > 1:
        run.check_control(forgetting_residuals())
    return results
