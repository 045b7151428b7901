"""A compressor's wires carried by the replica context, under every strategy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfdist.gradients import lanes


class Stopwatch:
    """Tells the time that a replica computes from the time in which it waits.

    Null object: measures nothing and adds nothing to the graph.
    """

    def go(self, tensors: Sequence[tf.Tensor]) -> None:
        """Notes that these are there: computing goes on."""

    def stop(self, tensors: Sequence[tf.Tensor]) -> None:
        """Notes that these are there: waiting, or the end."""


class RunningStopwatch(Stopwatch):
    """Reads the clock when tensors are computed, without holding anything up.

    Attributes:
        seconds: The time between `go` and `stop` so far; float64.
    """

    def __init__(self) -> None:
        self.seconds = tf.zeros([], tf.float64)

    def go(self, tensors: Sequence[tf.Tensor]) -> None:
        """See `Stopwatch.go`."""
        self._since = _time_after(tensors)

    def stop(self, tensors: Sequence[tf.Tensor]) -> None:
        """See `Stopwatch.stop`."""
        self.seconds += _time_after(tensors) - self._since


def _time_after(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    with tf.control_dependencies(tensors):
        return tf.timestamp()


class ReplicaExchange:
    """The replica context as an `Exchange`; made anew wherever a step is traced.

    Each collective takes a lane of its own: a name that always carries one shape.
    """

    def __init__(self, watch: Stopwatch) -> None:
        strategy = tf.distribute.get_strategy()
        self._context = tf.distribute.get_replica_context()
        self._watch = watch
        self._lanes = iter(lanes.BUFFERS)
        self._strategy: Any = strategy
        self.ranks = strategy.num_replicas_in_sync
        self.rank = self._context.replica_id_in_sync_group
        self.has_all_to_all = hasattr(strategy, "all_to_all")

    def sum(self, tensor: tf.Tensor) -> tf.Tensor:
        """Returns the sum of a vector over the replicas."""
        operation = tf.distribute.ReduceOp.SUM
        return self._timed(tensor, lambda: self._context.all_reduce(operation, tensor))

    def gather(self, tensor: tf.Tensor) -> tf.Tensor:
        """Returns the replicas' vectors one after the other."""
        return self._timed(tensor, lambda: self._strategy.gather_equal(tensor))

    def all_to_all(self, tensor: tf.Tensor) -> tf.Tensor:
        """Sends row j to replica j and returns the rows received, by sender."""
        return self._timed(tensor, lambda: self._strategy.all_to_all(tensor))

    def _timed(
        self, tensor: tf.Tensor, collective: Callable[[], tf.Tensor]
    ) -> tf.Tensor:
        self._watch.stop([tensor])
        with lanes.lane(next(self._lanes)):
            result = collective()
        self._watch.go([result])
        return result
