"""Refuses data that never end where nothing else ends an epoch.

Keras goes through them for ever, without a word.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from tfdist.errors import explain

if TYPE_CHECKING:
    from tfdist.strategies.fits import Call

# method of `keras.Model` -> (its data, the number of batches to take of them)
_LOOPS = {
    "fit": (("x", "steps_per_epoch"), ("validation_data", "validation_steps")),
    "evaluate": (("x", "steps"),),
    "predict": (("x", "steps"),),
}
METHODS = tuple(_LOOPS)


@contextlib.contextmanager
def refused(call: Call) -> Iterator[None]:
    """Goes around the calls of `METHODS`, see `fits.wrap`.

    Raises:
        ValueError: A dataset of infinite cardinality comes without a number of steps.
    """
    for data, steps in _LOOPS[call.name]:
        given = call.arguments.get(data)
        if not call.arguments.get(steps) and _is_endless(given) and not _is_capped():
            raise ValueError(
                explain(
                    f"{call.name} would go through {data} for ever",
                    received=f"an endless dataset, {steps}=None",
                    expected=f"{steps}, or a dataset that ends",
                    hint=f"Pass {steps} (tfdist.data returns it: batches.steps), or "
                    "leave out repeat(); of tfdist.data, pass shuffle=False to read "
                    "for validation.",
                )
            )
    yield


def _is_endless(data: Any) -> bool:
    if isinstance(data, tf.data.Dataset):
        return int(data.cardinality()) == tf.data.INFINITE_CARDINALITY
    if isinstance(data, tf.distribute.DistributedDataset):
        return int(data.cardinality) == tf.data.INFINITE_CARDINALITY
    return False


def _is_capped() -> bool:
    """Returns whether Keras is set to end every epoch, where it can be."""
    cap = getattr(keras.config, "max_steps_per_epoch", None)
    return cap is not None and bool(cap())
