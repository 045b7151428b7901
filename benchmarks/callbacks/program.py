"""One rank of the benchmark: trains in turns with each callback and without any.

A model of its own for each turn keeps one callback's trace out of another's. The turns
take place in every round, in another order each time, so that what else the machine
does falls on all of them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tfdist
from benchmarks.callbacks.candidates import CANDIDATES, NONE
from tfdist import cluster

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"


class Clock(keras.callbacks.Callback):
    """Notes when epochs begin; it stands first, so callbacks' own work is between."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.times.append(time.perf_counter())


class Turn:
    """One model that is trained with one callback, or without any."""

    def __init__(self, name: str, strategy: Any, folder: Path, steps: int) -> None:
        import model as digits

        self.name = name
        self._folder = folder / name
        self._steps = steps
        images = np.random.default_rng(1).random((digits.BATCH_SIZE * steps, 8, 8, 1))
        labels = np.arange(len(images)) % 10
        arrays = (images.astype("float32"), labels.astype("int32"))
        self._data = tf.data.Dataset.from_tensor_slices(arrays).batch(
            digits.BATCH_SIZE, drop_remainder=True
        )
        self._strategy = strategy
        with strategy.scope():
            self.model = digits.build(100_000)

    def take(self, number: int, epochs: int) -> list[float]:
        """Trains; returns the seconds of a step in each epoch after the first two.

        The first epoch traces, the last one's end is not seen.
        """
        callbacks = []
        if self.name != NONE:
            folder = self._folder / str(number)
            folder.mkdir(parents=True, exist_ok=True)
            callbacks.append(CANDIDATES[self.name](folder))
        clock = Clock()
        self.model.fit(
            self._data,
            epochs=epochs + 2,
            callbacks=[clock, *callbacks],
            verbose=0,
            shuffle=False,
        )
        return list(np.diff(clock.times)[1:] / self._steps)

    def operations(self) -> int:
        """Returns the number of operations in a training step, traced anew."""
        batch = next(iter(self._strategy.experimental_distribute_dataset(self._data)))

        @tf.function
        def program(batch: Any) -> Any:
            return self._strategy.run(self.model.train_step, args=(batch,))

        graph = program.get_concrete_function(batch).graph.as_graph_def()
        functions = (len(each.node_def) for each in graph.library.function)
        return len(graph.node) + sum(functions)


def main() -> None:
    """Writes what was measured as JSON, on the chief."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strategy", required=True)
    parser.add_argument("--callbacks", nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cores", type=int, required=True, help="of this rank")
    for option in ("--rounds", "--epochs", "--steps"):
        parser.add_argument(option, type=int, required=True)
    options = parser.parse_args()
    sys.path.insert(0, str(DIGITS))
    # More threads than a rank has cores would take turns with the other ranks'.
    tf.config.threading.set_intra_op_parallelism_threads(options.cores)
    strategy = tfdist.strategy(options.strategy)
    tfdist.set_seed(1)
    turns = [
        Turn(name, strategy, options.out / "files", options.steps)
        for name in (NONE, *options.callbacks)
    ]
    seconds: dict[str, list[list[float]]] = {turn.name: [] for turn in turns}
    turns[0].take(0, 0)
    never = turns[0].operations()
    for number in range(options.rounds):
        shift = number % len(turns)
        for turn in turns[shift:] + turns[:shift]:
            seconds[turn.name].append(turn.take(number, options.epochs))
    left = {turn.name: turn.operations() - never for turn in turns}
    if cluster.is_chief():
        found = {"seconds": seconds, "operations": left}
        (options.out / "results.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
