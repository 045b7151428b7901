"""Small types inside int32, the only integer that every collective carries."""

from __future__ import annotations

import tensorflow as tf

WORD = 32


def words(number: int) -> int:
    """Returns how many int32 hold so many bits."""
    return -(-number // WORD)


def pack_bits(flags: tf.Tensor) -> tf.Tensor:
    """Packs a vector of booleans, 32 to an int32; the last word is filled with 0."""
    size = flags.shape[0]
    flags = tf.pad(tf.cast(flags, tf.int32), [[0, words(size) * WORD - size]])
    weights = tf.bitwise.left_shift(1, tf.range(WORD))
    return tf.reduce_sum(tf.reshape(flags, [-1, WORD]) * weights, axis=1)


def unpack_bits(packed: tf.Tensor, size: int) -> tf.Tensor:
    """Returns the first `size` bits of a vector of int32, as int32 of 0 and 1."""
    shifted = tf.bitwise.right_shift(packed[:, tf.newaxis], tf.range(WORD))
    return tf.reshape(tf.bitwise.bitwise_and(shifted, 1), [-1])[:size]


def to_words(values: tf.Tensor) -> tf.Tensor:
    """Packs the last axis into int32: its length in bytes is a multiple of 4."""
    each = 4 // values.dtype.size
    if each > 1:
        shape = [*values.shape[:-1], values.shape[-1] // each, each]
        values = tf.reshape(values, shape)
    return tf.bitcast(values, tf.int32)


def from_words(packed: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Undoes `to_words`."""
    values = tf.bitcast(packed, dtype)
    if dtype.size < 4:
        values = tf.reshape(values, [*packed.shape[:-1], -1])
        values.set_shape([*packed.shape[:-1], packed.shape[-1] * (4 // dtype.size)])
    return values
