"""Orthonormal columns out of any columns, also zero or parallel ones."""

from __future__ import annotations

import tensorflow as tf


def orthonormal(columns: tf.Tensor) -> tf.Tensor:
    """Returns orthonormal columns that span what the given ones span.

    Householder reflections stay orthonormal for every finite input: columns that
    depend on others become arbitrary ones, instead of the 0/0 of Gram-Schmidt.

    Args:
        columns: [..., rows, columns] in float32, not more columns than rows.

    Returns:
        A tensor of the same shape.
    """
    # Brought to 1: squares of very large or small numbers leave float32's range.
    largest = tf.reduce_max(tf.abs(columns), axis=[-2, -1], keepdims=True)
    return tf.linalg.qr(tf.math.divide_no_nan(columns, largest)).q


def refreshed(columns: tf.Tensor, fresh: tf.Tensor) -> tf.Tensor:
    """Returns columns of length about 1, with fresh ones in place of vanished ones.

    A column that has become zero (a step without gradients, a matrix of lower rank)
    would stay zero for ever.

    Args:
        columns: [rows, columns] in float32.
        fresh: Random columns of the same shape.
    """
    lengths = tf.reduce_max(tf.abs(columns), axis=0, keepdims=True)
    alive = lengths > 1e-6 * tf.reduce_max(lengths)
    return tf.where(alive, tf.math.divide_no_nan(columns, lengths), fresh)
