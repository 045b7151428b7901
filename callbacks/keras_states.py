"""What Keras's own callbacks remember, which have no method to tell it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import keras

from tfdist.gradients import keras_names

# Callback -> what of its attributes decides what it does later. Keras 3.8 to 3.15.
_ATTRIBUTES: dict[type, tuple[str, ...]] = {
    keras.callbacks.EarlyStopping: (
        "wait",
        "stopped_epoch",
        "best",
        "best_epoch",
        "best_weights",
    ),
    keras.callbacks.ReduceLROnPlateau: ("wait", "cooldown_counter", "best"),
    keras.callbacks.ModelCheckpoint: (
        "best",
        "_batches_seen_since_last_saving",
        "_last_batch_seen",
    ),
    keras.callbacks.TensorBoard: (
        "_global_train_batch",
        "_global_test_batch",
        "_previous_epoch_iterations",
    ),
    keras.callbacks.SwapEMAWeights: ("_ema_weights_in_model",),
    keras.callbacks.History: ("epoch", "history"),
}


def state_of(callback: keras.callbacks.Callback) -> dict[str, Any] | None:
    """Returns what a callback of Keras's remembers; None if that is nothing."""
    if isinstance(callback, keras.callbacks.CSVLogger):
        return _csv_state(callback)
    names = _names(callback)
    if not names:
        return None
    keras_names.require(callback, names)
    return {name: as_arrays(getattr(callback, name)) for name in names}


def set_state(callback: keras.callbacks.Callback, state: dict[str, Any]) -> None:
    """Undoes `state_of`; call it after `on_train_begin`, where they forget."""
    for name in _names(callback):
        if name in state:
            setattr(callback, name, state[name])
    if isinstance(callback, keras.callbacks.CSVLogger):
        callback.keys = state["keys"]


def keep_files(callback: keras.callbacks.Callback) -> None:
    """Keeps what `on_train_begin` would destroy; call it before.

    CSVLogger opens its file anew.
    """
    if isinstance(callback, keras.callbacks.CSVLogger):
        callback.append = True


def shorten_file(callback: keras.callbacks.Callback, state: dict[str, Any]) -> None:
    """Lets CSVLogger go on behind the last line that belongs to a checkpoint.

    Later ones tell of epochs that are made again. Call it on the chief, before
    `on_train_begin`. A file of another name was not meant, and stays as it is.
    """
    if not isinstance(callback, keras.callbacks.CSVLogger):
        return
    size, path = state["size"], callback.filename
    is_it = os.path.basename(path) == state["name"] and os.path.isfile(path)
    if is_it and size is not None and os.path.getsize(path) > size:
        os.truncate(path, size)


def _csv_state(callback: keras.callbacks.CSVLogger) -> dict[str, Any]:
    file = callback.csv_file
    if file is not None and not file.closed:
        file.flush()
    path = callback.filename
    size = os.path.getsize(path) if os.path.isfile(path) else None
    return {"name": os.path.basename(path), "size": size, "keys": callback.keys}


def _names(callback: keras.callbacks.Callback) -> tuple[str, ...]:
    kinds = type(callback).__mro__
    return next((_ATTRIBUTES[kind] for kind in kinds if kind in _ATTRIBUTES), ())


def stopped_early(callbacks: Iterable[keras.callbacks.Callback]) -> bool:
    """Returns whether an EarlyStopping has ended the training."""
    kind = keras.callbacks.EarlyStopping
    return any(isinstance(each, kind) and each.stopped_epoch > 0 for each in callbacks)


def as_arrays(value: Any) -> Any:
    """Returns tensors, which Keras mixes with numbers, as NumPy's scalars or arrays."""
    if isinstance(value, dict):
        return {key: as_arrays(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(as_arrays(each) for each in value)
    return value.numpy() if hasattr(value, "numpy") else value
