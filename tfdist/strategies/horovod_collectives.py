"""Horovod's collectives as tfdist uses them: named, ordered, for every dtype.

Within a lane (see `tfdist.gradients.lanes`) operations run one after the other, named
after the lane alone: TensorFlow's name scopes count the models of a process. So a
rank that has built an extra model, or traced a function more often, uses the same
names as the others; and ranks that are in different places mostly meet under one name
with different shapes, which Horovod reports at once, instead of waiting for each
other under different names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow.python.ops import resource_variable_ops

from tfdist.gradients import lanes

# Horovod 0.28.1 has no sum for these; the wider type holds every partial sum, and
# casting a single rank's value there and back is exact.
_WIDER = {
    tf.bool: tf.int32,
    tf.int8: tf.int32,
    tf.int16: tf.int32,
    tf.uint8: tf.int32,
    tf.uint16: tf.int32,
    tf.bfloat16: tf.float32,
}


class HorovodCollectives:
    """All-reduce and all-gather over the ranks of an initialised Horovod.

    Args:
        horovod: The module `horovod.tensorflow`, after `init()`.
    """

    def __init__(self, horovod: Any) -> None:
        self._horovod = horovod
        with tf.init_scope(), tf.device("CPU:0"):
            self._turns = {
                lane: resource_variable_ops.ResourceVariable(0, trainable=False)
                for lane in lanes.ALL
            }

    def all_reduce(self, value: Any, mean: bool = False) -> Any:
        """Returns the sum (or mean) of a tensor or IndexedSlices over the ranks."""
        size = self._horovod.size()
        if size == 1:
            return value
        if isinstance(value, tf.IndexedSlices):
            values = self._gather_rows(value.values, "values")
            if mean:
                values = values / tf.cast(size, values.dtype)
            indices = self._gather_rows(value.indices, "indices")
            return tf.IndexedSlices(values, indices, value.dense_shape)
        value = tf.convert_to_tensor(value)
        total = self._in_turn(
            tf.cast(value, _WIDER.get(value.dtype, value.dtype)),
            lambda name, wire: self._horovod.allreduce(
                wire,
                op=self._horovod.Sum,
                name=f"{name}.sum.{wire.dtype.name}",
                ignore_name_scope=True,
            ),
        )
        if mean:
            total = total / tf.cast(size, total.dtype)
        total.set_shape(value.shape)
        return tf.cast(total, value.dtype)

    def all_gather(self, value: tf.Tensor, axis: int = 0) -> tf.Tensor:
        """Returns the ranks' tensors one after the other along `axis`.

        Args:
            value: A tensor of rank 1 or more; ranks may differ in size along `axis`.
            axis: The axis to join along.
        """
        value = tf.convert_to_tensor(value)
        if self._horovod.size() == 1:
            return value
        if value.shape.rank == 0:
            raise ValueError(
                "gather needs tensors of rank 1 or more. Received: a scalar.\n"
                "HINT: Use tf.expand_dims(value, 0)."
            )
        if axis == 0:
            return self._gather_rows(value, "rows")
        order = list(range(value.shape.rank))
        order.insert(0, order.pop(axis))
        rows = self._gather_rows(tf.transpose(value, order), "rows")
        return tf.transpose(rows, tf.argsort(order))

    def all_to_all(self, value: tf.Tensor) -> tf.Tensor:
        """Sends row j to rank j and returns the rows received, by sender.

        Args:
            value: A tensor of the same shape on all ranks, with one row for each.
        """
        rows = self._in_turn(
            value,
            lambda name, wire: self._horovod.alltoall(
                wire,
                name=f"{name}.rows.{wire.dtype.name}",
                ignore_name_scope=True,
            ),
        )
        rows.set_shape(value.shape)
        return rows

    def _gather_rows(self, value: tf.Tensor, what: str) -> tf.Tensor:
        rows = self._in_turn(
            tf.cast(value, _WIDER.get(value.dtype, value.dtype)),
            lambda name, wire: self._horovod.allgather(
                wire,
                name=f"{name}.{what}.{wire.dtype.name}",
                ignore_name_scope=True,
            ),
        )
        return tf.cast(rows, value.dtype)

    def _in_turn(
        self, value: tf.Tensor, operation: Callable[[str, tf.Tensor], tf.Tensor]
    ) -> tf.Tensor:
        """Runs `operation(name, value)` after its predecessor in the lane has ended.

        Horovod 0.28.1 does not register its operations as stateful, so TensorFlow
        would overlap them, even between iterations of a loop, and Horovod would
        refuse the second use of a name that is still under way.
        """
        lane = lanes.current()
        name = f"tfdist.{lane}"
        if tf.executing_eagerly():
            return operation(name, value)
        turn = self._turns[lane]
        now = turn.read_value()
        with tf.control_dependencies([now]):
            result = operation(name, _known_late(value, now))
        with tf.control_dependencies([result]):
            turn.assign_add(1, read_value=False)
        return result


def _known_late(value: tf.Tensor, turn: tf.Tensor) -> tf.Tensor:
    """Returns a value that TensorFlow cannot know before the program runs; no copy.

    For the same reason, TensorFlow would run an operation whose input is constant on
    one rank (zeros, where only the first rank has something to say) there once, while
    it optimises the program, and never again: the other ranks would wait for ever.
    """
    begin = tf.fill([tf.rank(value)], tf.cast(turn < 0, tf.int32))
    return tf.ensure_shape(tf.slice(value, begin, tf.shape(value)), value.shape)
