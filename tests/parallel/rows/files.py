"""Files: every rank is given ONE path, as users do."""

import csv
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tests.parallel.registry import Results, row
from tests.parallel.setting import Setting
from tests.parallel.training import (
    compile_under,
    named_variables,
    outcome,
    perceptron,
    regression,
    sgd,
    train,
)


def adam() -> keras.optimizers.Optimizer:
    return keras.optimizers.Adam(0.01)


def file_count(directory: Path) -> np.ndarray:
    return np.float64(sum(path.is_file() for path in directory.rglob("*")))


@row("ModelCheckpoint, weights of every epoch")
def checkpoint_weights(setting: Setting) -> Results:
    pattern = str(setting.directory / "{epoch}.weights.h5")
    save = keras.callbacks.ModelCheckpoint(pattern, save_weights_only=True)
    results = train(setting, callbacks=[save])
    setting.barrier()
    results["files/count"] = file_count(setting.directory)
    for epoch in (1, 2):
        model = perceptron()
        model.load_weights(setting.directory / f"{epoch}.weights.h5")
        for index, weights in enumerate(model.get_weights()):
            results[f"files/{epoch}.{index}"] = weights
    return results


@row("ModelCheckpoint, the best whole model")
def checkpoint_best(setting: Setting) -> Results:
    path = setting.directory / "best.keras"
    save = keras.callbacks.ModelCheckpoint(
        str(path), monitor="val_loss", save_best_only=True
    )
    results = train(
        setting, optimizer=adam, callbacks=[save], validation_data=regression(33)
    )
    setting.barrier()
    saved = keras.models.load_model(path)
    return results | {
        f"files/{key}": variable.numpy()
        for key, variable in named_variables(saved).items()
    }


@row("load_weights right after the chief has saved them")
def load_after_fit(setting: Setting) -> Results:
    """What `fit` writes is complete on every rank when it returns."""
    path = setting.directory / "last.weights.h5"
    ended = setting.directory / "ended"

    def end(logs: Any) -> None:
        if setting.rank == 0:
            time.sleep(0.3)  # the others go on, if nothing holds them
            ended.touch()

    callbacks = [
        keras.callbacks.ModelCheckpoint(str(path), save_weights_only=True),
        keras.callbacks.LambdaCallback(on_train_end=end),
    ]
    model = compile_under(setting, perceptron, adam, "mse")
    model.fit(*regression(16), batch_size=16, verbose=0, callbacks=callbacks)
    assert ended.exists()
    model.load_weights(path)
    return outcome(setting, model)


@row("CSVLogger")
def csv_logger(setting: Setting) -> Results:
    path = setting.directory / "log.csv"
    results = train(setting, callbacks=[keras.callbacks.CSVLogger(str(path))])
    setting.barrier()
    with path.open() as file:
        lines = [
            [float(value.replace("NA", "nan")) for value in line.values()]
            for line in csv.DictReader(file)
        ]
    return results | {"files/csv": np.asarray(lines)}


@row("TensorBoard: one writer")
def tensorboard(setting: Setting) -> Results:
    board = keras.callbacks.TensorBoard(str(setting.directory), histogram_freq=1)
    results = train(setting, callbacks=[board], validation_data=regression(33))
    setting.barrier()
    return results | {"files/count": file_count(setting.directory)}


class Interruption(Exception):
    """What ends the first half of a run."""


class Interrupt(keras.callbacks.Callback):
    """Fail at the start of the third epoch."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == 2:
            raise Interruption


@row("BackupAndRestore: interrupted, restored, equal to one run")
def backup_and_restore(setting: Setting) -> Results:
    inputs, targets = regression()
    options = {"batch_size": 16, "shuffle": False, "epochs": 3, "verbose": 0}

    def backup() -> keras.callbacks.Callback:
        return keras.callbacks.BackupAndRestore(str(setting.directory / "backup"))

    model = compile_under(setting, perceptron, adam, "mse")
    try:
        model.fit(inputs, targets, callbacks=[backup(), Interrupt()], **options)
    except Interruption:
        setting.barrier()
    keras.utils.set_random_seed(999)  # what is not restored shows
    model = compile_under(setting, perceptron, adam, "mse")
    history = model.fit(inputs, targets, callbacks=[backup()], **options)
    setting.barrier()
    results = outcome(setting, model, history)
    return results | {"files/count": file_count(setting.directory)}


@row("model.save on all ranks; loaded where tfdist is absent")
def save(setting: Setting) -> Results:
    # tests/parallel/reload.py loads model.keras in a process without tfdist.
    inputs, targets = regression()
    model = compile_under(setting, perceptron, adam, "mse")
    model.fit(inputs, targets, batch_size=16, shuffle=False, verbose=0)
    model.save(setting.directory / "model.keras")
    model.save_weights(setting.directory / "model.weights.h5")
    setting.barrier()
    results = outcome(setting, model, predict=inputs)
    return results | {"files/count": file_count(setting.directory)}


@row("load_model inside the scope, training continued")
def load_and_continue(setting: Setting) -> Results:
    inputs, targets = regression()
    path = setting.directory / "model.keras"
    model = compile_under(setting, perceptron, adam, "mse")
    model.fit(inputs, targets, batch_size=16, shuffle=False, verbose=0)
    model.save(path)
    setting.barrier()
    with setting.scope():
        loaded = keras.models.load_model(path)
    history = loaded.fit(inputs, targets, batch_size=16, shuffle=False, verbose=0)
    return outcome(setting, loaded, history)


@row("get_weights, set_weights between two models")
def weights_between_models(setting: Setting) -> Results:
    inputs, targets = regression()
    first = compile_under(setting, perceptron, sgd, "mse")
    second = compile_under(setting, perceptron, sgd, "mse")
    first.fit(inputs, targets, batch_size=16, shuffle=False, verbose=0)
    second.set_weights(first.get_weights())
    history = second.fit(inputs, targets, batch_size=16, shuffle=False, verbose=0)
    return outcome(setting, second, history)
