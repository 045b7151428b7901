"""One process that trains in turns with each way of saving, and without any.

The batch is chosen so that a step takes about the wanted time. The clock stands first
in the list, so what a callback does at the end of a batch falls into that step.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tfdist
from benchmarks.recovery.savers import NONE, SAVERS

WIDTH = 1024  # of each layer


class Clock(keras.callbacks.Callback):
    """Notes when batches begin."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.times.append(time.perf_counter())


def build(parameters: int) -> keras.Model:
    """Returns a compiled perceptron; Adam makes its state three times as large."""
    layers = max(1, round(parameters / WIDTH**2))
    model = keras.Sequential(
        [keras.Input([WIDTH])]
        + [keras.layers.Dense(WIDTH, "relu") for _ in range(layers)]
    )
    model.compile(keras.optimizers.Adam(1e-4), "mse")
    return model


def data(batch: int) -> tf.data.Dataset:
    """Returns endless batches of the same numbers."""
    rows = np.random.default_rng(1).normal(size=(batch, WIDTH)).astype("float32")
    return tf.data.Dataset.from_tensors((rows, rows)).repeat()


def seconds_of(model: keras.Model, batch: int, steps: int = 8) -> float:
    """Returns the time of a step with such a batch."""
    clock = Clock()
    model.fit(data(batch), steps_per_epoch=steps, verbose=0, callbacks=[clock])
    return float(np.median(np.diff(clock.times)[2:]))


def batch_for(model: keras.Model, seconds: float) -> int:
    """Returns the batch whose step takes about so long; 1 if that is longer."""
    small, large = 1, 65
    least = seconds_of(model, small)
    each = (seconds_of(model, large) - least) / (large - small)
    return max(1, round((seconds - least) / max(each, 1e-6)))


def turn(name: str, model: keras.Model, batch: int, folder: Path, options: Any) -> Any:
    """Trains; returns the seconds of each step after the first ones."""
    callbacks = []
    if name != NONE:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        callbacks = [SAVERS[name](folder, options.every)]
    clock = Clock()
    steps = options.every * (options.saves + 1)  # the last one's period, too
    model.fit(
        data(batch),
        steps_per_epoch=steps + 1,
        verbose=0,
        callbacks=[clock, *callbacks],
    )
    return list(np.diff(clock.times)[:steps])


def main() -> None:
    """Writes what was measured as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--savers", nargs="+", required=True)
    parser.add_argument("--step-seconds", type=float, required=True)
    for option in ("--parameters", "--every", "--saves", "--rounds"):
        parser.add_argument(option, type=int, required=True)
    options = parser.parse_args()
    tfdist.set_seed(1)
    # A model each, as Keras remembers what callbacks have hung on one.
    models = {name: build(options.parameters) for name in (NONE, *options.savers)}
    batch = batch_for(models[NONE], options.step_seconds)
    seconds: dict[str, list[list[float]]] = {name: [] for name in models}
    for model in models.values():
        seconds_of(model, batch)  # traces
    for number in range(options.rounds):
        names = (
            list(models)[number % len(models) :] + list(models)[: number % len(models)]
        )
        for name in names:
            folder = options.out / "files" / name
            seconds[name].append(turn(name, models[name], batch, folder, options))
    model = models[NONE]
    size = sum(
        np.prod(v.shape) * 4 for v in [*model.variables, *model.optimizer.variables]
    )
    found = {
        "parameters": model.count_params(),
        "batch": batch,
        "bytes": int(size),
        "every": options.every,
        "seconds": seconds,
    }
    (options.out / "results.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
