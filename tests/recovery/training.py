"""A small training that goes on after any end; it ends itself where it is told to.

    tfdist run -np 2 --max-restarts 9 -m tests.recovery.training [ORDER...]

Files are in the working folder. An order is RESTART:RANK:MOMENT:SIGNAL, such as
0:1:step-7:KILL. Moments: start (before `fit`), restore (while the others wait for what
this rank finds in the directory), step-N, validation-N and save-N (once N steps are
complete; in a save, its first file is written and has no name yet). Signals: all, and
SLEEP, which makes the rank 40 seconds late. And forget:PATTERN leaves variables out of
what is put back, timeout:SECONDS is for the callback.
"""

import os
import signal
import sys
import time
from pathlib import Path

from tests.recovery.told import Teller
from tfdist import cluster

RESTARTS = int(os.environ.get("TFDIST_RESTARTS", "0"))
RANK = cluster.rank()
teller = Teller(Path.cwd(), RESTARTS, RANK)
teller.tell(0, "start")

import hashlib  # noqa: E402
import json  # noqa: E402

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

import tfdist  # noqa: E402
from tests.recovery.launched import INTERVAL  # noqa: E402
from tests.resumed_runs import forgetting  # noqa: E402
from tfdist.checkpoint.local import LocalFileSystem  # noqa: E402
from tfdist.checkpoint.store import Store  # noqa: E402

STEPS = 10  # of an epoch
EPOCHS = 3


class Obedience(keras.callbacks.Callback):
    """Tells where the training is, and carries out what is ordered for this start."""

    def __init__(self, orders: list[str]) -> None:
        super().__init__()
        self._orders = []
        for order in orders:
            if order.startswith(("forget:", "timeout:")):
                continue
            restart, rank, moment, name = order.split(":")
            if (int(restart), int(rank)) == (RESTARTS, RANK):
                kind, _, step = moment.partition("-")
                self._orders.append((kind, int(step or 0), name))
        self._begun = False
        self._pause = 0.0  # seconds after each step
        self.step = 0  # complete ones of the run, as the optimizer counts them

    def reach(self, moment: str) -> None:
        for order in list(self._orders):
            kind, step, name = order
            if kind == moment and self.step >= step:
                self._orders.remove(order)
                print(f"{moment} after step {self.step}: {name}", flush=True)
                if name == "SLEEP":
                    time.sleep(40.0)
                else:
                    os.kill(os.getpid(), signal.Signals[f"SIG{name}"])
                if name == "STOP":
                    # Continued and told to leave, it would be done before all agree.
                    self._pause = 0.3

    def on_train_batch_begin(self, batch, logs=None):
        if not self._begun:
            self._begun = True
            self.step = int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))
            print(f"resumed {self.step}", flush=True)

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        teller.tell(self.step, "training")
        self.reach("step")
        time.sleep(self._pause)

    def on_test_batch_end(self, batch, logs=None):
        teller.tell(self.step, "validation")
        self.reach("validation")


def obey_while_saving(obedience: Obedience) -> None:
    """Makes every name that a file gets a moment of a save."""
    replace = LocalFileSystem.replace

    def watched(self, source, target):
        if "/step-" in target:
            obedience.reach("save")
        replace(self, source, target)

    LocalFileSystem.replace = watched


def obey_while_restoring(obedience: Obedience) -> None:
    """Makes the reading of a checkpoint a moment."""
    verify = Store.verify

    def watched(self, step, **options):
        obedience.reach("restore")
        return verify(self, step, **options)

    Store.verify = watched


def main(orders: list[str]) -> None:
    tfdist.set_seed(1)
    with tfdist.strategy("auto").scope():
        model = keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(16, "relu"),
                keras.layers.Dropout(0.3),
                keras.layers.Dense(3),
            ]
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    random = np.random.default_rng(0)
    inputs = random.normal(size=(STEPS * 16, 8)).astype("float32")
    labels = inputs[:, :3].argmax(axis=1)
    dataset = tf.data.Dataset.from_tensor_slices((inputs, labels))
    dataset = dataset.shuffle(len(labels), seed=5).batch(16)
    obedience = Obedience(orders)
    obey_while_saving(obedience)
    obey_while_restoring(obedience)
    obedience.set_model(model)
    obedience.reach("start")
    timeout = [float(o.partition(":")[2]) for o in orders if o.startswith("timeout:")]
    recovery = tfdist.callbacks.CheckpointRecovery(
        "saved", every_steps=INTERVAL, timeout=(timeout or [600.0])[0]
    )
    with forgetting(*[o.partition(":")[2] for o in orders if o.startswith("forget")]):
        history = model.fit(
            dataset,
            epochs=EPOCHS,
            validation_data=(inputs[:64], labels[:64]),
            validation_batch_size=32,
            verbose=0,
            callbacks=[recovery, obedience],
        )
    teller.tell(obedience.step, "end")
    text = json.dumps(history.history, sort_keys=True).encode()
    weights = b"".join(weight.tobytes() for weight in model.get_weights())
    print(f"hash {hashlib.sha256(weights + text).hexdigest()[:16]}", flush=True)


main(sys.argv[1:])
