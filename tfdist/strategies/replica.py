"""One replica among the others: what they tell each other of their state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from tfdist.gradients import lanes
from tfdist.gradients.collectives import replicas, sum_tensors


@dataclass(frozen=True)
class Replica:
    """A replica as it sees itself, inside a function that all of them run."""

    number: Any  # its place among all, an integer or a scalar tensor
    count: int  # of all replicas
    sum: Callable[[Sequence[tf.Tensor]], list[tf.Tensor]]  # over all replicas

    def of_all(self, row: tf.Tensor) -> tf.Tensor:
        """Returns the integer rows of all replicas, one below the other."""
        place = tf.one_hot(self.number, self.count, dtype=row.dtype)
        (total,) = self.sum([tf.tensordot(place, row, axes=0)])
        return total

    def of_first(self, values: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Returns the values of replica 0, bit for bit.

        They travel as the sum of replica 0's bits and everyone else's zeros: one
        collective for all dtypes and all strategies.
        """
        is_first = tf.equal(self.number, 0)
        own = [to_bits(value) for value in values]
        bits = [tf.where(is_first, value, tf.zeros_like(value)) for value in own]
        return [
            _from_bits(total, value.dtype)
            for value, total in zip(values, self.sum(bits), strict=True)
        ]


def this_replica() -> Replica:
    """Returns the replica in whose context this is called."""
    return Replica(
        tf.distribute.get_replica_context().replica_id_in_sync_group,
        replicas(),
        lambda tensors: sum_tensors(tensors, lanes.STATE),
    )


def to_bits(value: tf.Tensor) -> tf.Tensor:
    """Returns the bits of a tensor as int32; 8-byte numbers get one more dimension."""
    if value.dtype.size >= 4:
        return tf.bitcast(value, tf.int32)
    if value.dtype == tf.bool:
        return tf.cast(value, tf.int32)
    narrow = tf.uint16 if value.dtype.size == 2 else tf.uint8
    return tf.cast(tf.bitcast(value, narrow), tf.int32)


def _from_bits(bits: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    if dtype.size >= 4:
        return tf.bitcast(bits, dtype)
    if dtype == tf.bool:
        return tf.cast(bits, tf.bool)
    narrow = tf.uint16 if dtype.size == 2 else tf.uint8
    return tf.bitcast(tf.cast(bits, narrow), dtype)
