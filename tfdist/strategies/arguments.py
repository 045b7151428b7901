"""What the arguments of fit, evaluate and predict say before the first step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist import cluster
from tfdist.data.batches import recipe_of
from tfdist.errors import explain
from tfdist.strategies.order import refuse_random_order, shuffle_seeds
from tfdist.strategies.sharding import is_replica_batches, refuse_unbatched

_SCALARS = ("batch_size", "epochs", "initial_epoch", "steps_per_epoch", "steps")
_DATA = ("x", "y", "sample_weight")
_EMPTY = "no elements"
_KERAS_BATCH_SIZE = 32  # where `fit` is given none


def details(arguments: Mapping[str, Any]) -> dict[str, str | int]:
    """Describes a call: what has to be equal on all ranks.

    Args:
        arguments: The bound arguments of `fit`, `evaluate` or `predict`.

    Raises:
        ValueError: There is no data, or a dataset is not batched.
    """
    found: dict[str, str | int] = {
        name: str(arguments[name]) for name in _SCALARS if arguments.get(name)
    }
    found.update(
        (name, _describe(arguments[name]))
        for name in _DATA
        if arguments.get(name) is not None
    )
    recipe = recipe_of(arguments.get("x"))
    if recipe is not None:
        found.update((f"x: {key}", str(v)) for key, v in recipe.identity.items())
    if _EMPTY in str(found.get("x")):
        refuse_empty(str(found["x"]))
    return found


def refuse_empty(received: str) -> None:
    """Raises ValueError about data without a single batch."""
    raise ValueError(
        explain(
            "There is no data to go through",
            received=received,
            expected="at least one batch",
            hint="Check the path, the filter and the split of the dataset.",
        )
    )


def batches_are_equal(arguments: Mapping[str, Any], replicas: int) -> bool:
    """Returns whether every replica is known to have equally many rows in each step.

    Known are arrays whose batches all divide by the number of replicas, and datasets
    with a static batch size that does: their steps need not count examples.
    """
    data = arguments.get("x")
    if isinstance(data, tf.data.Dataset):
        sizes = {
            spec.shape[0]
            for spec in tf.nest.flatten(data.element_spec)
            if hasattr(spec, "shape")
        }
        known = None not in sizes
        return known and (
            is_replica_batches(data) or all(size % replicas == 0 for size in sizes)
        )
    rows = _rows_of_arrays(arguments)
    if rows is None:
        return False
    size = _size_of_array_batches(arguments, rows)
    return rows % size == 0 and size % replicas == 0


def global_batch_size(arguments: Mapping[str, Any]) -> int | None:
    """Returns the number of examples in a whole batch, if `fit`'s arguments tell it.

    Told by arrays and their `batch_size`, by what `tfdist.data` has made, and by
    datasets whose last stages batch.
    """
    data = arguments.get("x")
    recipe = recipe_of(data)
    if recipe is not None:
        return recipe.source.global_batch_size
    if isinstance(data, tf.data.Dataset):
        if is_replica_batches(data):
            return None
        shapes = [getattr(s, "shape", None) for s in tf.nest.flatten(data.element_spec)]
        sizes = {shape[0] if shape else None for shape in shapes}
        if None in sizes:  # a partial last batch hides it
            graph = tf.data.experimental.to_variant(data)
            sizes = {int(tf.raw_ops.ComputeBatchSize(input_dataset=graph))}
        size = int(sizes.pop() or 0)
        return size if not sizes and size > 0 else None
    rows = _rows_of_arrays(arguments)
    return None if rows is None else _size_of_array_batches(arguments, rows)


def _rows_of_arrays(arguments: Mapping[str, Any]) -> int | None:
    """Returns the number of examples to train on, if they are given as arrays."""
    arrays = keras.tree.flatten(arguments.get("x"))
    if not arrays or not all(isinstance(a, np.ndarray | tf.Tensor) for a in arrays):
        return None
    rows = int(arrays[0].shape[0])
    if arguments.get("validation_data") is not None:  # then Keras splits nothing off
        return rows
    return int(rows * (1.0 - (arguments.get("validation_split") or 0.0)))


def _size_of_array_batches(arguments: Mapping[str, Any], rows: int) -> int:
    steps = arguments.get("steps_per_epoch") or arguments.get("steps")
    size = arguments.get("batch_size") or (-(-rows // steps) if steps else None)
    return int(size or _KERAS_BATCH_SIZE)


def _describe(data: Any) -> str:
    if isinstance(data, tf.data.Dataset):
        refuse_unbatched(data)
        length = int(data.cardinality())
        size = _EMPTY if length == 0 else f"cardinality {length}"
        text = f"tf.data.Dataset of {data.element_spec}, {size}"
        if is_replica_batches(data) or not (seeds := shuffle_seeds(data)):
            return text
        if cluster.size() > 1:
            refuse_random_order(data)
        return f"{text}, shuffled with the seeds {seeds}"
    if isinstance(data, keras.utils.PyDataset):
        return f"{type(data).__name__} of {data.num_batches} batches"
    if isinstance(data, Mapping):
        return ", ".join(f"{key}: {_describe(data[key])}" for key in sorted(data))
    if isinstance(data, list | tuple) and any(hasattr(part, "shape") for part in data):
        return ", ".join(_describe(part) for part in data)
    if not hasattr(data, "shape") or not hasattr(data, "dtype"):
        empty = hasattr(data, "__len__") and len(data) == 0
        return _EMPTY if empty else type(data).__name__
    empty = len(data.shape) > 0 and data.shape[0] == 0
    return _EMPTY if empty else f"{tuple(data.shape)} {data.dtype}"
