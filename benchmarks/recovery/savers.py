"""The ways of saving that are compared: one line for each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

import tfdist

NONE = "nothing saved"
OWN = "CheckpointRecovery"


class Manager(keras.callbacks.Callback):
    """Saves with TensorFlow's own manager, as its guides do."""

    def __init__(self, folder: Path, every: int) -> None:
        super().__init__()
        self._folder, self._every = folder, every
        self._steps = 0

    def on_train_begin(self, logs: Any = None) -> None:
        checkpoint = tf.train.Checkpoint(
            model=self.model, optimizer=self.model.optimizer
        )
        self._manager = tf.train.CheckpointManager(
            checkpoint, str(self._folder), max_to_keep=3
        )

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._steps += 1
        if self._steps % self._every == 0:
            self._manager.save(self._steps)


# Each makes a callback that saves into an empty folder every so many steps.
SAVERS: dict[str, Callable[[Path, int], Any]] = {
    OWN: lambda folder, every: tfdist.callbacks.CheckpointRecovery(
        folder, every_steps=every
    ),
    "BackupAndRestore": lambda folder, every: keras.callbacks.BackupAndRestore(
        str(folder), save_freq=every
    ),
    "tf.train.CheckpointManager": Manager,
}
