"""One rank of the benchmark: trains with each callback and without, in turns.

A model of its own for each keeps one callback's trace out of another's; their `fit`s
run at the same time, of which one at a time makes a few steps.
"""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

import tfdist
from benchmarks.callbacks.candidates import CANDIDATES, NONE
from benchmarks.callbacks.relay import Pace, Relay
from tfdist import cluster

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"


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
        options = tf.data.Options()
        # TensorFlow 2.21 may wait for its tuner for seconds when an epoch ends.
        options.autotune.enabled = False
        self._data = (
            tf.data.Dataset.from_tensor_slices(arrays)
            .batch(digits.BATCH_SIZE, drop_remainder=True)
            .with_options(options)
        )
        self._strategy = strategy
        with strategy.scope():
            self.model = digits.build(100_000)

    def take(self, epochs: int, relay: Relay, runner: int, block: int) -> list[float]:
        """Trains; returns the seconds of a step in each epoch after the first.

        The first epoch traces. One more at the end is not measured: what callbacks do
        at an epoch's end counts.
        """
        pace = Pace(relay, runner, block)
        relay.wait(runner)
        try:
            callbacks = []
            if self.name != NONE:
                self._folder.mkdir(parents=True, exist_ok=True)
                callbacks.append(CANDIDATES[self.name](self._folder))
            self.model.fit(
                self._data,
                epochs=epochs + 2,
                callbacks=[pace, *callbacks],
                verbose=0,
                shuffle=False,
            )
        except BaseException as error:
            relay.leave(error)
            raise
        relay.leave()
        # Before the first epoch, and the one that traces.
        return [seconds / self._steps for seconds in pace.epochs[2:]]

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
    for option in ("--epochs", "--steps", "--block"):
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
    relay = Relay(len(turns))
    with ThreadPoolExecutor(len(turns)) as pool:
        running = {
            turn.name: pool.submit(
                turn.take, options.epochs, relay, number, options.block
            )
            for number, turn in enumerate(turns)
        }
    seconds = {name: each.result() for name, each in running.items()}
    never = Turn(NONE, strategy, options.out, options.steps).operations()
    left = {turn.name: turn.operations() - never for turn in turns}
    if cluster.is_chief():
        found = {"seconds": seconds, "operations": left}
        (options.out / "results.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
