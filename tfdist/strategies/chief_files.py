"""Files are written once, by the chief, though every rank runs the same script."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras

from tfdist import cluster

# What writes. Reading stays everywhere: BackupAndRestore restores in on_train_begin.
_WRITERS: dict[Any, tuple[str, ...]] = {
    keras.Model: ("save", "save_weights", "export"),
    keras.callbacks.CSVLogger: ("on_train_begin", "on_epoch_end", "on_train_end"),
    keras.callbacks.BackupAndRestore: (
        "on_epoch_end",
        "on_train_batch_end",
        "on_train_end",
    ),
    keras.callbacks.TensorBoard: tuple(
        name
        for name in vars(keras.callbacks.TensorBoard)
        if name.startswith("on_") or name == "set_model"
    ),
}


def install() -> None:
    """Makes the writing methods of Keras do nothing on ranks other than the chief.

    Keras 3 has no notion of a chief: every rank would open, truncate, replace and
    delete the same file. Only models under a strategy of several processes are
    concerned; `keras.saving.save_model(model, path)` writes on any rank that calls it.
    """
    for owner, names in _WRITERS.items():
        for name in names:
            setattr(owner, name, _by_the_chief(getattr(owner, name)))


def _by_the_chief(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if cluster.is_chief() or cluster.size() == 1:
            return method(self, *args, **kwargs)
        return None

    return call
