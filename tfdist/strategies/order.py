"""One order of the examples on all ranks."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import context


@contextlib.contextmanager
def shared_seed(strategy: Any) -> Iterator[None]:
    """Gives all ranks rank 0's global TensorFlow seed, from which `fit` shuffles.

    Keras shuffles arrays on every rank for itself; each rank then takes its rows of
    the global batch. With different seeds two ranks would train on the same example
    and none on another. A rank's own seed returns afterwards.

    Args:
        strategy: The strategy that connects the ranks; all of them call this.
    """
    own = context.global_seed()
    proposal = random.SystemRandom().getrandbits(31) if own is None else own
    first = strategy.gather_integers(proposal)[0]
    if first == own:
        yield
        return
    tf.random.set_seed(first)
    try:
        yield
    finally:
        tf.random.set_seed(own)
