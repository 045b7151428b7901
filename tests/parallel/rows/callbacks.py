"""Schedules and callbacks that steer training."""

from typing import Any

import keras
import numpy as np

from tests.parallel.registry import Results, row
from tests.parallel.setting import Setting
from tests.parallel.training import regression, sgd, train


@row("learning-rate schedule object")
def schedule(setting: Setting) -> Results:
    decay = keras.optimizers.schedules.CosineDecay
    return train(setting, optimizer=lambda: sgd(learning_rate=decay(0.1, 6)))


@row("LearningRateScheduler and ReduceLROnPlateau")
def learning_rate_callbacks(setting: Setting) -> Results:
    callbacks = [
        keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.9),
        keras.callbacks.ReduceLROnPlateau("loss", 0.5, patience=1, min_delta=10.0),
    ]
    return train(setting, callbacks=callbacks, epochs=3)


@row("EarlyStopping, best weights restored")
def early_stopping(setting: Setting) -> Results:
    stop = keras.callbacks.EarlyStopping(
        "val_loss", min_delta=10.0, patience=2, restore_best_weights=True
    )
    return train(setting, callbacks=[stop], epochs=5, validation_data=regression(33))


@row("TerminateOnNaN, NaN on one rank")
def terminate_on_nan(setting: Setting) -> Results:
    inputs, targets = regression()
    inputs[31] = np.nan
    callbacks = [keras.callbacks.TerminateOnNaN()]
    return train(setting, data=(inputs, targets), callbacks=callbacks, epochs=3)


@row("logs of every batch")
def batch_logs(setting: Setting) -> Results:
    losses: list[float] = []
    record = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: losses.append(float(logs["loss"]))
    )
    results = train(setting, data=regression(57), callbacks=[record])
    return results | {"history/batches": np.asarray(losses)}


class Asking(keras.callbacks.Callback):
    """Ask for the metrics' results after each step."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.losses.append(float(self.model.get_metrics_result()["loss"]))


@row("metrics' results asked for after each step")
def results_between(setting: Setting) -> Results:
    asking = Asking()
    results = train(setting, data=regression(57), callbacks=[asking])
    return results | {"history/asked": np.asarray(asking.losses)}


class Doubled(keras.callbacks.Callback):
    """Change weights in a callback, as a user may on every rank."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.model.set_weights([weight * 0.5 for weight in self.model.get_weights()])


@row("weights set by a callback")
def weights_set(setting: Setting) -> Results:
    return train(setting, callbacks=[Doubled()])
