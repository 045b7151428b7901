"""A job that is killed: tells, in a file, when it gets where.

    python -m benchmarks.recovery.train FOLDER --parameters N

One line for each rank and event: `EVENT RANK START TIME STEP PID`.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import keras

import tfdist
from benchmarks.recovery.program import build, data
from tfdist import cluster

STEPS = 100_000  # never reached


class Events(keras.callbacks.Callback):
    """Notes the beginning of `fit` and the end of each step."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file

    def note(self, event: str, step: int = 0) -> None:
        start = os.environ.get("TFDIST_RESTARTS", "0")
        words = [event, cluster.rank(), start, time.time(), step, os.getpid()]
        with self._file.open("a") as file:
            file.write(" ".join(map(str, words)) + "\n")

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.note("step", batch + 1)


def main() -> None:
    """Trains until it is killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--parameters", type=int, required=True)
    options = parser.parse_args()
    tfdist.set_seed(1)
    strategy = tfdist.strategy("auto")
    with strategy.scope():
        model = build(options.parameters)
    events = Events(options.folder / "events")
    events.note("fit")
    recovery = tfdist.callbacks.CheckpointRecovery(
        options.folder / "checkpoints", every_steps=20
    )
    model.fit(
        data(2 * cluster.size()),
        steps_per_epoch=STEPS,
        verbose=0,
        callbacks=[recovery, events],
    )


if __name__ == "__main__":
    main()
