"""What a step waits for, noted while the step is traced.

A step's own computing and its collectives overlap, so the time in collectives says
little. What counts is exposed: the time from when a replica has computed its own part
until it has what it needs of the others. There the step does nothing but wait.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from tensorflow.python.ops import resource_variable_ops

from tfdist.gradients import lanes

_local = threading.local()  # one replica of MirroredStrategy is one thread


class Waiting:
    """Null object: measures nothing and adds nothing to the graph."""

    @property
    def measures(self) -> bool:
        """Whether anything is measured at all."""
        return False

    def between(self, own: Any, others: Any) -> None:
        """Notes the time from when `own` are there until `others` are there.

        Args:
            own: Tensors that this replica computes, in any structure.
            others: Tensors that come from all replicas.
        """

    def computing(self, seconds: tf.Tensor) -> None:
        """Notes that so much of a time between was spent computing; float64."""


class MeasuredWaiting(Waiting):
    """Adds up the seconds in a variable, without holding anything up.

    Args:
        seconds: The variable; a float64 scalar.
    """

    def __init__(self, seconds: Any) -> None:
        self._seconds = seconds

    @property
    def measures(self) -> bool:
        """See `Waiting.measures`."""
        return True

    def between(self, own: Any, others: Any) -> None:
        """See `Waiting.between`."""
        if not tensors_of(others):
            return
        since, until = time_when(own), time_when(others)
        self._seconds.assign_add(tf.maximum(until - since, 0.0), read_value=False)

    def computing(self, seconds: tf.Tensor) -> None:
        """See `Waiting.computing`."""
        self._seconds.assign_sub(seconds, read_value=False)


def time_when(values: Any) -> tf.Tensor:
    """Returns the time at which all tensors of a structure are there; float64."""
    with tf.control_dependencies(tensors_of(values)):
        return _clock()(_anchor().handle)


@functools.cache
def _clock() -> Any:
    """Returns a function that reads the clock, whenever it is called in a graph.

    In a graph of its own: TensorFlow lets all operations with side effects but without
    a variable follow one another in the order of the program. One replica's reading
    would wait for another one's, and a `tf.print` for both: in one graph, for ever.
    """

    @tf.function(autograph=False)
    def clock(anchor: Any) -> tf.Tensor:
        del anchor  # the variable: it is never written, so nobody waits for it
        with tf.device("CPU:0"):
            return tf.timestamp()

    return clock


@functools.cache
def _anchor() -> Any:
    with tf.init_scope(), tf.device("CPU:0"):
        return resource_variable_ops.ResourceVariable(0.0, trainable=False)


def tensors_of(values: Any) -> list[tf.Tensor]:
    """Returns the tensors in a structure, composite ones in their parts."""
    flat = tf.nest.flatten(values, expand_composites=True)
    return [value for value in flat if tf.is_tensor(value)]


def note_layers(own: Any, others: Any) -> None:
    """Notes a collective if it is a layer's or user code's, which hold the step up."""
    if lanes.current() == lanes.VALUES:
        current().between(own, others)


def current() -> Waiting:
    """Returns what measures the step that this thread traces; the null object."""
    return getattr(_local, "waiting", _NOTHING)


@contextlib.contextmanager
def entered(waiting: Waiting) -> Iterator[None]:
    """Measures the step that this thread traces within."""
    previous = current()
    _local.waiting = waiting
    try:
        yield
    finally:
        _local.waiting = previous


_NOTHING = Waiting()
