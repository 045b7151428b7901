"""A compressor's wires carried by the replica context, under every strategy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfdist.compression.rounds import Result, Rounds
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


def timed(rounds: Rounds[Result], watch: Stopwatch) -> Rounds[Result]:
    """Stops the watch while all of a round's wires are under way, and nothing else."""
    answers: list[tf.Tensor] | None = None
    while True:
        try:
            wires = rounds.send(answers)  # type: ignore[arg-type]
        except StopIteration as end:
            return end.value
        watch.stop([wire.tensor for wire in wires])
        answers = yield wires
        watch.go(answers)


class ReplicaExchange:
    """The replica context as an `Exchange`; made anew wherever a step is traced.

    Each collective takes a lane of its own: a name that always carries one shape.
    """

    def __init__(self) -> None:
        strategy = tf.distribute.get_strategy()
        self._context = tf.distribute.get_replica_context()
        self._lanes = iter(lanes.BUFFERS)
        self._strategy: Any = strategy
        self.ranks = strategy.num_replicas_in_sync
        self.rank = self._context.replica_id_in_sync_group
        self.has_all_to_all = hasattr(strategy, "all_to_all")

    def sum(self, tensor: tf.Tensor) -> tf.Tensor:
        """Returns the sum of a vector over the replicas."""
        operation = tf.distribute.ReduceOp.SUM
        with lanes.lane(next(self._lanes)):
            return self._context.all_reduce(operation, tensor)

    def gather(self, tensor: tf.Tensor) -> tf.Tensor:
        """Returns the replicas' vectors one after the other."""
        with lanes.lane(next(self._lanes)):
            return self._strategy.gather_equal(tensor)

    def all_to_all(self, tensor: tf.Tensor) -> tf.Tensor:
        """Sends row j to replica j and returns the rows received, by sender."""
        with lanes.lane(next(self._lanes)):
            return self._strategy.all_to_all(tensor)
