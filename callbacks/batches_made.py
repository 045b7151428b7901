"""How many batches of an epoch are made, also where an execution has several."""

from __future__ import annotations

from typing import Any

from tfdist.strategies import fits


def batches_made(callback: Any, batch: int) -> int:
    """Returns how many batches of its epoch a model has trained on.

    With `steps_per_execution` Keras numbers an execution's last batch as if no
    execution were shorter than the others. That of an epoch that goes through all its
    data is, where the number of batches is no multiple; with `steps_per_epoch` Keras
    does take the batches beyond. Where an epoch's length is not known, its last
    execution is taken to be a whole one.

    Args:
        callback: One that Keras has told its model and `params`.
        batch: What its `on_train_batch_end` was called with.

    Example:
        >>> def on_train_batch_end(self, batch, logs=None):  # 7, with 7 batches in
        ...     made = batches_made(self, batch)  # executions of 4 and 3: 7, not 8
    """
    fit = fits.running(callback.model)
    goes_through = fit is not None and not fit.arguments.get("steps_per_epoch")
    steps = callback.params.get("steps") if goes_through else None
    return min(batch + 1, steps or batch + 1)
