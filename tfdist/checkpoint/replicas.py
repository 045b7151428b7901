"""What each replica holds of a variable: read, assigned, and dealt out anew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

Array = np.ndarray[Any, Any]


def copies_of(variable: Any) -> Sequence[Any]:
    """Returns this process's copies of a Keras or TensorFlow variable, in order."""
    value = variable.value if isinstance(variable, keras.Variable) else variable
    strategy = getattr(value, "distribute_strategy", None)
    if strategy is None:
        return (value,)
    copies: Sequence[Any] = strategy.experimental_local_results(value)
    return copies


def read(copy: Any) -> Array:
    """Returns the value of one copy, on CPUs without copying it.

    The next assignment to the variable makes a new buffer as long as this array lives,
    so it is better not kept.
    """
    return np.asarray(copy.read_value())


def shares(saved: Sequence[Array], place: str, replicas: int) -> Array:
    """Returns what each of some replicas is given of what others have saved.

    With as many replicas as before, each gets back what it had. With another number:

    - metrics are counted into by all replicas, and read as a sum: the first one gets
      the sum;
    - accumulated gradients are parts of a sum, too, which may grow on all replicas:
      each gets an equal part of it;
    - all else has a common meaning of which each replica has its own estimate (moving
      statistics; weights that are averaged later): each gets the mean. What cannot be
      averaged (counters, flags) is the same everywhere: the first one's.

    Args:
        saved: Of each process that saved, in order: (replicas, ...).
        place: The variable's name among the keys.
        replicas: The number of replicas now.

    Returns:
        An array (replicas, ...).
    """
    whole = np.concatenate(list(saved))
    if len(whole) == replicas:
        return whole
    total = _sum(whole)
    if place.startswith("metrics/"):
        rest = np.zeros((replicas - 1, *whole.shape[1:]), whole.dtype)
        return np.concatenate([total[None].astype(whole.dtype), rest])
    if not _is_float(whole.dtype):
        part = whole[0]
    elif place.startswith(ACCUMULATOR):
        part = (total / replicas).astype(whole.dtype)
    else:
        part = (total / len(whole)).astype(whole.dtype)
    return np.stack([part] * replicas)


# Keras's name of the slots in which gradients are accumulated between two updates.
ACCUMULATOR = "optimizer/gradient_accumulator/"


def _sum(whole: Array) -> Array:
    exact = np.float64 if _is_float(whole.dtype) else np.int64
    total: Array = whole.astype(exact).sum(0)
    return total


def _is_float(dtype: Any) -> bool:
    return bool(tf.as_dtype(dtype).is_floating)
