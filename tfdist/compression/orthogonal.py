"""Orthonormal rows out of any rows, also zero or parallel ones."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf


def orthonormal(rows: tf.Tensor) -> tf.Tensor:
    """Returns orthonormal rows that span what the given ones span.

    Householder reflections stay orthonormal for every finite input: rows that depend
    on others become arbitrary ones, instead of the 0/0 of Gram-Schmidt.

    Args:
        rows: [..., rows, columns] in float32, not more rows than columns.

    Returns:
        A tensor of the same shape.
    """
    # Brought to 1: squares of very large or small numbers leave float32's range.
    largest = tf.reduce_max(tf.abs(rows), axis=[-2, -1], keepdims=True)
    columns = tf.linalg.matrix_transpose(tf.math.divide_no_nan(rows, largest))
    return tf.linalg.matrix_transpose(tf.linalg.qr(columns).q)


def refreshed(rows: tf.Tensor, draw: Callable[[], tf.Tensor]) -> tf.Tensor:
    """Returns rows of length about 1, with fresh ones in place of vanished ones.

    A row that has become zero (a step without gradients, a matrix of lower rank)
    would stay zero for ever.

    Args:
        rows: [rows, columns] in float32.
        draw: Returns random rows of the same shape; drawing takes longer than all
            else here, and nearly never happens.
    """
    lengths = tf.reduce_max(tf.abs(rows), axis=1, keepdims=True)
    alive = lengths > 1e-6 * tf.reduce_max(lengths)
    scaled = tf.math.divide_no_nan(rows, lengths)
    return tf.cond(
        tf.reduce_all(alive), lambda: scaled, lambda: tf.where(alive, scaled, draw())
    )
