"""One process of a training that may go on from another number of ranks or strategy.

    python -m tests.recovery.elsewhere --strategy S --directory D --out F [--stop N]

The chief writes to F what was put back, and what came out.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tests.parallel.training import perceptron, regression
from tests.parallel.worker import make_strategy


def values(model: keras.Model) -> list[list[float]]:
    """Return the variables that all replicas share."""
    variables = [*model.trainable_variables, *model.optimizer.variables]
    return [
        np.ravel(variable.numpy()).tolist()
        for variable in variables
        if "gradient_accumulator" not in variable.path
    ]


class Watch(keras.callbacks.Callback):
    """Notes the state before the first batch, and stops after one."""

    def __init__(self, stop: int | None) -> None:
        super().__init__()
        self.stop = stop
        self.made = 0
        self.first: list[list[float]] | None = None

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.first = self.first or values(self.model)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.made += 1
        if self.made == self.stop:
            self.model.stop_training = True


def main() -> None:
    """Train; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strategy", required=True)
    parser.add_argument("--directory", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--stop", type=int)
    options = parser.parse_args()
    strategy = make_strategy(options.strategy)
    import tfdist

    assert strategy is not None
    keras.utils.set_random_seed(5)
    with strategy.scope():
        model = perceptron()
        # Gradients wait for an update in the middle of which the run stops.
        rate = keras.optimizers.SGD(0.1, momentum=0.9, gradient_accumulation_steps=2)
        model.compile(rate, "mse", metrics=["mae"])
    recovery = tfdist.callbacks.CheckpointRecovery(options.directory, 1000)
    watch = Watch(options.stop)
    history = model.fit(
        *regression(57), batch_size=16, epochs=3, verbose=0, callbacks=[recovery, watch]
    )
    if tfdist.cluster.is_chief():
        result = {
            "resumed": recovery.resumed_step,
            "first": watch.first,
            "last": values(model),
            "history": history.history,
        }
        options.out.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
