"""What replicas exchange: sums of packed tensors, through the replica context.

Everything here is called in a replica context and works under every strategy; with
one replica it changes nothing and communicates nothing. Dense tensors travel in flat
buffers, one per dtype, or a few where they are large: the number of collectives does
not depend on the number of variables, and the buffers' layout never changes, so
neither do the rounding errors.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tfdist.compression.buffers import buffers_of
from tfdist.gradients import lanes, waiting

# Summed in float32: backends sum 16-bit floats slowly, or not at all (Horovod 0.28.1
# and TensorFlow's collectives have no bfloat16), and lose digits doing it.
_WIRE = {tf.float16: tf.float32, tf.bfloat16: tf.float32, tf.bool: tf.int32}
# Buffers of dense gradients.
MOST_BUFFERS = 8


def replicas() -> int:
    """Returns the number of replicas of the strategy in force."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def sum_tensors(tensors: Sequence[tf.Tensor], lane: str) -> list[tf.Tensor]:
    """Returns the sum over all replicas of each dense tensor.

    Args:
        tensors: Dense tensors; each has the same shape and dtype on every replica.
        lane: One of `lanes.ALL`.

    Returns:
        Tensors of the same shapes and dtypes, bit-identical on all replicas.
    """
    tensors = [tf.convert_to_tensor(tensor) for tensor in tensors]
    if not tensors or replicas() == 1:
        return tensors
    results: list[tf.Tensor] = [None] * len(tensors)
    by_dtype: dict[tf.DType, list[int]] = {}
    for index, tensor in enumerate(tensors):
        by_dtype.setdefault(_WIRE.get(tensor.dtype, tensor.dtype), []).append(index)
    context = tf.distribute.get_replica_context()
    for dtype, indices in by_dtype.items():
        members = [tensors[index] for index in indices]
        buffer = tf.concat([tf.reshape(tf.cast(t, dtype), [-1]) for t in members], 0)
        with lanes.lane(lane):
            total = context.all_reduce(tf.distribute.ReduceOp.SUM, buffer)
        sizes = [tf.size(tensor) for tensor in members]
        for index, part in zip(indices, tf.split(total, sizes), strict=True):
            member = tensors[index]
            part = tf.reshape(part, tf.shape(member))
            part.set_shape(member.shape)
            results[index] = tf.cast(part, member.dtype)
    return results


def mean_tensors(tensors: Sequence[tf.Tensor], lane: str) -> list[tf.Tensor]:
    """Returns the mean over all replicas of each dense float tensor.

    The sum is made in float64: where all have the same value of up to 32 bits, that is
    the mean, to the bit.

    Args:
        tensors: As of `sum_tensors`.
        lane: One of `lanes.ALL`.
    """
    wide = [tf.cast(tensor, tf.float64) for tensor in tensors]
    return [
        tf.cast(total / replicas(), tensor.dtype)
        for tensor, total in zip(tensors, sum_tensors(wide, lane), strict=True)
    ]


def sum_slices(slices: Sequence[tf.IndexedSlices]) -> list[tf.IndexedSlices]:
    """Returns the sum over all replicas of sparse gradients, kept sparse.

    Gradients whose rows have the same width travel together: their rows are put one
    below the other and the row numbers shifted accordingly, so the number of
    collectives depends on the number of widths, not of embeddings.

    Args:
        slices: Gradients of embedding-like variables; the number of rows may differ
            between replicas, even be 0.

    Returns:
        Slices whose rows are those of all replicas, in the order of the replicas.
    """
    if replicas() == 1:
        return list(slices)
    results: list[tf.IndexedSlices] = [None] * len(slices)
    groups: dict[tuple[tf.DType, tuple[int, ...]], list[int]] = {}
    for index, item in enumerate(slices):
        key = (item.values.dtype, tuple(item.values.shape[1:].as_list()))
        groups.setdefault(key, []).append(index)
    context = tf.distribute.get_replica_context()
    for (dtype, _), indices in groups.items():
        members = [slices[index] for index in indices]
        rows = [tf.cast(member.dense_shape[0], tf.int64) for member in members]
        ends = tf.cumsum(tf.stack(rows))
        starts = ends - tf.stack(rows)
        stacked = tf.IndexedSlices(
            tf.cast(
                tf.concat([member.values for member in members], 0),
                _WIRE.get(dtype, dtype),
            ),
            tf.concat(
                [
                    tf.cast(m.indices, tf.int64) + starts[i]
                    for i, m in enumerate(members)
                ],
                0,
            ),
            tf.concat([ends[-1:], tf.cast(members[0].dense_shape[1:], tf.int64)], 0),
        )
        with lanes.lane(lanes.SPARSE):
            total = context.all_reduce(tf.distribute.ReduceOp.SUM, stacked)
        for i, (index, member) in enumerate(zip(indices, members, strict=True)):
            own = (total.indices >= starts[i]) & (total.indices < ends[i])
            results[index] = tf.IndexedSlices(
                tf.cast(tf.boolean_mask(total.values, own), dtype),
                tf.cast(
                    tf.boolean_mask(total.indices, own) - starts[i],
                    member.indices.dtype,
                ),
                member.dense_shape,
            )
    return results


def sum_gradients(
    gradients: Sequence[tf.Tensor | tf.IndexedSlices | None],
) -> list[tf.Tensor | tf.IndexedSlices | None]:
    """Returns the sum over all replicas of each gradient, dense or sparse."""
    results = list(gradients)
    sparse = [i for i, g in enumerate(results) if isinstance(g, tf.IndexedSlices)]
    dense = [i for i, g in enumerate(results) if i not in sparse and g is not None]
    sizes = [_wire_bytes(results[i]) for i in dense]
    buffers = buffers_of(sizes, MOST_BUFFERS)
    for lane, places in zip(lanes.BUFFERS[: len(buffers)], buffers, strict=True):
        members = [dense[place] for place in places]
        summed = sum_tensors([results[i] for i in members], lane)
        for index, total in zip(members, summed, strict=True):
            results[index] = total
    summed = sum_slices([results[i] for i in sparse])
    for index, total in zip(sparse, summed, strict=True):
        results[index] = total
    return results


def _wire_bytes(tensor: tf.Tensor) -> int:
    wire = _WIRE.get(tensor.dtype, tensor.dtype)
    return int(tensor.shape.num_elements() or 0) * wire.size


def all_true(flag: tf.Tensor) -> tf.Tensor:
    """Returns whether the boolean scalar `flag` holds on all replicas."""
    (votes,) = sum_tensors([tf.cast(flag, tf.float32)], lanes.CONTROL)
    waiting.current().between(flag, votes)
    return votes > replicas() - 0.5
