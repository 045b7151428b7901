"""Are all replicas' variables the same, bit for bit; and if not, which differ?

Each replica sends 24 bytes as long as all are the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfdist.strategies.group import Group
from tfdist.strategies.replica import Replica, to_bits


class Summary(NamedTuple):
    """What every replica says of its state; rows in the order of the replicas."""

    states: np.ndarray  # 64-bit hashes of all variables
    layouts: np.ndarray  # 64-bit hashes of their shapes and types
    steps: np.ndarray  # of training, as each has counted them


class Difference(NamedTuple):
    """One variable that is not the same on all replicas."""

    variable: Any
    replicas: list[int]  # whose values are not those of replica 0
    largest: float  # |difference| from replica 0; infinite where one is not finite
    elements: int  # that differ, on the replica where most do


def summarize(group: Group, variables: Sequence[Any], step: int) -> Summary:
    """Returns all replicas' hashes; one small collective.

    Args:
        group: The replicas.
        variables: What has to be equal.
        step: What this process counts.
    """
    layout = _layout(variables)

    def row(replica: Replica, step: tf.Tensor) -> tf.Tensor:
        del replica
        whole = _hash(_hashes(variables))
        return tf.stack([whole, tf.constant(layout, tf.int64), step])

    step_now = tf.constant(step, tf.int64)
    rows = group.ask("summary", variables, row, step_now)
    return Summary(*rows.T)


def find(group: Group, variables: Sequence[Any]) -> list[Any]:
    """Returns the variables that are not the same on all replicas."""
    rows = group.ask("hashes", variables, lambda replica: _hashes(variables))
    differ = (rows != rows[0]).any(axis=0)
    return [v for v, differs in zip(variables, differ, strict=True) if differs]


def measure(group: Group, variables: Sequence[Any]) -> list[Difference]:
    """Returns how much variables differ; each travels once, from replica 0."""

    def sizes(replica: Replica) -> tf.Tensor:
        own = [tf.convert_to_tensor(variable.value) for variable in variables]
        pairs = zip(own, replica.of_first(own), strict=True)
        return tf.stack([_size_of_difference(one, other) for one, other in pairs])

    if not variables:
        return []
    rows = group.ask("sizes", variables, sizes)  # [replicas, variables, 2]
    largest, elements = rows[..., 0].view(np.float64), rows[..., 1]
    return [
        Difference(
            variable,
            np.flatnonzero(elements[:, place]).tolist(),
            float(largest[:, place].max()),
            int(elements[:, place].max()),
        )
        for place, variable in enumerate(variables)
    ]


def _layout(variables: Sequence[Any]) -> int:
    text = repr([(tuple(v.shape), str(v.dtype)) for v in variables])
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)


def _hashes(variables: Sequence[Any]) -> tf.Tensor:
    """Returns the 64-bit hash of each variable's bits on this replica."""
    return tf.stack([_hash(tf.convert_to_tensor(v.value)) for v in variables])


def _hash(tensor: tf.Tensor) -> tf.Tensor:
    # As int64: not every collective carries bytes.
    fingerprint = tf.fingerprint(tf.reshape(tensor, [1, -1]))
    return tf.bitcast(fingerprint, tf.int64)[0]


def _size_of_difference(own: tf.Tensor, first: tf.Tensor) -> tf.Tensor:
    """Returns the bits of the largest difference, and the number of elements."""
    differs = tf.not_equal(to_bits(own), to_bits(first))
    if differs.shape.rank > own.shape.rank:  # 8-byte numbers are two words
        differs = tf.reduce_any(differs, axis=-1)
    gap = tf.abs(tf.cast(own, tf.float64) - tf.cast(first, tf.float64))
    gap = tf.where(tf.math.is_finite(gap), gap, np.inf)
    largest = tf.reduce_max(tf.where(differs, gap, 0.0))
    elements = tf.reduce_sum(tf.cast(differs, tf.int64))
    return tf.stack([tf.bitcast(largest, tf.int64), elements])
