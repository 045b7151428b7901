"""Replicas are compared after every step, and what may differ is no alarm."""

from functools import partial
from typing import Any

import keras
import numpy as np

import tfdist
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

consistency_row = partial(row, needs=Needs.TFDIST)
Consistency = tfdist.callbacks.ReplicaConsistency


@consistency_row("ReplicaConsistency, accumulation 3, EMA, loss scale, partial batch")
def consistent(setting: Setting) -> Results:
    scaled = keras.optimizers.LossScaleOptimizer
    return train(
        setting,
        optimizer=lambda: scaled(
            sgd(gradient_accumulation_steps=3, use_ema=True, ema_overwrite_frequency=2)
        ),
        data=regression(57),
        epochs=3,
        callbacks=[Consistency(1)],
    )


@consistency_row(
    "ReplicaConsistency, LocalSGD(3), BatchNormalization, Dropout", compared=False
)
def consistent_local_steps(setting: Setting) -> Results:
    """The slots of the replicas' own optimizers differ: only weights are compared."""

    def build() -> keras.Model:
        layers = keras.layers
        middle = [layers.Dense(6), layers.BatchNormalization(), layers.Dropout(0.3)]
        return keras.Sequential([keras.Input((8,)), *middle, layers.Dense(1)])

    callbacks = [tfdist.callbacks.LocalSGD(3), Consistency(1)]
    results = train(setting, build=build, data=regression(57), callbacks=callbacks)
    return {k: v for k, v in results.items() if k.startswith(("weights/", "history/"))}


class Damage(keras.callbacks.Callback):
    """Add to a weight of the last replica, after every step."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.setting = setting

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        variable = self.model.trainable_variables[0].value
        copies = self.setting.distribution.experimental_local_results(variable)
        if self.setting.replicas > 1 and self.setting.rank == self.setting.size - 1:
            copies[-1].assign_add(np.ones(copies[-1].shape, "float32"))


@consistency_row("ReplicaConsistency repairs each step, goes on from its state")
def consistent_repaired(setting: Setting) -> Results:
    model = compile_under(setting, perceptron, sgd, "mse")
    data = batches(*regression())
    first = Consistency(1, "repair")
    model.fit(data, verbose=0, callbacks=[Damage(setting), first])
    again = Consistency.from_config(first.get_config())
    again.set_state([first.get_state()] * setting.size)
    history = model.fit(data, verbose=0, callbacks=[Damage(setting), again])
    repairs = 8 if setting.replicas > 1 else 0
    steps = {"steps": 8, "compared": 8, "ended": 8}
    assert again.get_state() == steps | {"repairs": repairs}
    return outcome(setting, model, history)


@consistency_row("callbacks.defaults: scaled, compared, measured, saved")
def consistent_defaults(setting: Setting) -> Results:
    callbacks = tfdist.callbacks.defaults(
        setting.directory / "runs",
        log_dir=setting.directory / "logs",
        reference_batch_size=8,
        warmup_epochs=1,
        every=2,
    )
    results = train(
        setting, optimizer=lambda: sgd(learning_rate=0.02), callbacks=callbacks
    )
    setting.barrier()  # the chief has written its files
    assert (setting.directory / "logs" / "telemetry.csv").exists()
    # The history holds what Telemetry has measured.
    return {k: v for k, v in results.items() if not k.startswith("history/")}
