"""Splits global batches between replicas, and keeps the number of steps equal."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfdist.errors import explain
from tfdist.strategies.array_memory import copied_rows, on_parts, owning

_MARK = "_tfdist_replica_batches"
_Policy = tf.data.experimental.AutoShardPolicy


def replica_batches(
    dataset: tf.data.Dataset, replicas: int, replica: int
) -> tf.data.Dataset:
    """Returns the dataset of one replica's rows of every global batch.

    Replica r of N takes rows `n * r // N` to `n * (r + 1) // N` of a batch of n: sizes
    differ by one at most, order is kept, and every replica has the same number of
    steps, in some of which it may have no rows. The static batch size is kept only
    where it is the same on all replicas; later stages rely on that.

    Every replica reads the whole stream; `tfdist.data` reads only what it needs.

    Args:
        dataset: Batches of the global batch size, in the same order on all replicas.
        replicas: The number of replicas, N.
        replica: This replica's number, r.

    Raises:
        ValueError: The dataset asks to be sharded by files.
    """
    if is_replica_batches(dataset) or replicas == 1:
        return dataset
    policy = dataset.options().experimental_distribute.auto_shard_policy
    if policy == _Policy.OFF:
        return mark(_rebatched(dataset, replicas))
    if policy not in (_Policy.AUTO, _Policy.DATA):
        raise ValueError(
            explain(
                "Sharding by files changes which examples share a batch",
                received=f"AutoShardPolicy.{policy.name}",
                expected="AutoShardPolicy.AUTO, DATA or OFF",
                hint="Read files with tfdist.data.from_tfrecords, which does it "
                "exactly, or leave the policy at AUTO.",
            )
        )

    own_rows = on_parts(dataset, lambda value: _slice(value, replicas, replica))
    return mark(dataset.map(own_rows, num_parallel_calls=1).prefetch(tf.data.AUTOTUNE))


def refuse_unbatched(dataset: tf.data.Dataset) -> None:
    """Raises ValueError if the elements are single examples."""
    for spec in tf.nest.flatten(dataset.element_spec):
        if getattr(spec, "shape", None) is not None and spec.shape.rank == 0:
            raise ValueError(
                explain(
                    "The dataset is not batched",
                    received=f"elements with a scalar, {spec}",
                    expected="batches of the global batch size",
                    hint="dataset = dataset.batch(global_batch_size)",
                )
            )


def mark(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Notes that a dataset already holds one replica's batches."""
    setattr(dataset, _MARK, True)
    return dataset


def is_replica_batches(dataset: tf.data.Dataset) -> bool:
    """Returns whether this dataset, or one it is made from, was marked."""
    if getattr(dataset, _MARK, False):
        return True
    return any(is_replica_batches(source) for source in dataset._inputs())


def even_steps(dataset: tf.data.Dataset, strategy: Any) -> tf.data.Dataset:
    """Adds empty batches where other replicas have more steps.

    Args:
        dataset: This replica's batches; its length may differ from the others'.
        strategy: The strategy, which compares the lengths; all replicas call this.

    Raises:
        ValueError: The length of a dataset is not known.
    """
    length = int(dataset.cardinality())
    lengths = strategy.gather_integers(length)
    if any(other == tf.data.UNKNOWN_CARDINALITY for other in lengths):
        raise ValueError(
            explain(
                "The number of steps is not known on every replica",
                received=f"cardinalities {lengths}",
                expected="known or infinite cardinality, so that no replica waits for "
                "one that has ended",
                hint="Use dataset.apply(tf.data.experimental.assert_cardinality(n)), "
                "or dataset.repeat() with steps_per_epoch.",
            )
        )
    longest = max(lengths)
    if tf.data.INFINITE_CARDINALITY not in lengths and length < longest:
        dataset = _without_batch_size(dataset)
        empty = tf.data.Dataset.from_tensors(_empty_batch(dataset.element_spec))
        dataset = dataset.concatenate(empty.repeat(longest - length))
    elif len(set(lengths)) > 1:
        dataset = _without_batch_size(dataset)
    return mark(dataset)


def _slice(value: Any, replicas: int, replica: int) -> Any:
    if isinstance(value, tf.SparseTensor):
        rows = value.dense_shape[0]
        start, stop = rows * replica // replicas, rows * (replica + 1) // replicas
        width = value.dense_shape[1:]
        return tf.sparse.slice(
            value,
            tf.concat([[start], tf.zeros_like(width)], 0),
            tf.concat([[stop - start], width], 0),
        )
    rows = value.shape[0]
    if rows is None or rows % replicas:
        # Hides a known size: replicas with different static sizes would trace
        # different programs.
        rows = (
            value.nrows() if isinstance(value, tf.RaggedTensor) else tf.shape(value)[0]
        )
        rows = tf.compat.v1.placeholder_with_default(rows, [])
    start, stop = rows * replica // replicas, rows * (replica + 1) // replicas
    return copied_rows(value, start, stop)


def _rebatched(dataset: tf.data.Dataset, replicas: int) -> tf.data.Dataset:
    """TensorFlow's meaning of OFF: this worker's own examples, in global batches."""
    first = tf.nest.flatten(dataset.element_spec)[0]
    if first.shape[0] is None or first.shape[0] % replicas:
        raise ValueError(
            explain(
                "AutoShardPolicy.OFF needs a global batch size that is known and "
                "divisible by the number of replicas",
                received=f"batches of {first.shape[0]} for {replicas} replicas",
                expected=f"dataset.batch(k * {replicas}, drop_remainder=True)",
                hint="Or use strategy.distribute_datasets_from_function.",
            )
        )
    dataset = owning(dataset)
    return dataset.rebatch(first.shape[0] // replicas, drop_remainder=True)


def _without_batch_size(dataset: tf.data.Dataset) -> tf.data.Dataset:
    def hide(value: Any) -> Any:
        rows = tf.compat.v1.placeholder_with_default(tf.shape(value)[0], [])
        return copied_rows(value, 0, rows)

    return dataset.map(on_parts(dataset, hide))


def _empty_batch(spec: Any) -> Any:
    def empty(part: tf.TensorSpec) -> Any:
        shape = [0, *(size or 0 for size in part.shape[1:])]
        if part.dtype == tf.string:
            return np.zeros(shape, "S1")
        return np.zeros(shape, part.dtype.as_numpy_dtype)

    return tf.nest.map_structure(empty, spec)
