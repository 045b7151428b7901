"""Sums of two ranks' 8-bit levels as they are, four in an int32.

The ranks first gather the largest number of every block, so both divide by the same
scale. Rounded to -63 ... 63, two levels add up to a number of one byte again: nothing
is carried into the next byte, and the sum is exact. It costs one bit of precision, and
saves decoding what is one's own. Above all, an all-reduce uses both directions of a
link at once; Gloo's gather between two ranks mostly uses one after the other, since
what a rank can receive is announced behind what it sends (Horovod 0.28.1,
gloo/allgatherv.cc).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfdist.compression import bits
from tfdist.compression.buffers import groups_of
from tfdist.compression.compressor import Item, Outcome
from tfdist.compression.rounds import GATHER, SUM, Payload, Rounds, Wire

RANKS = 2
LARGEST = 63

TINY = float(np.finfo(np.float32).tiny)

# In every byte of an int32: all but the highest bit, the second highest, the highest.
_LOW_BITS, _SECOND_BIT = 0x7F7F7F7F, 0x40404040
_HIGHEST_BIT = int(np.uint32(0x80808080).astype(np.int32))


def sums_levels(block: int, ranks: int) -> bool:
    """Returns whether levels can be summed, and rounding is a contraction then.

    An element's error is at most half a level, and no larger than the element. A
    level is max / 63, of the larger of the ranks' numbers: in a block of b elements
    both together lose at most 2 b / 126^2 of their energy.
    """
    return ranks == RANKS and RANKS * block < (2 * LARGEST) ** 2


def levels_payload(sizes: Sequence[int], block: int) -> list[Payload]:
    """Returns what `sum_of_levels` sends."""
    blocks = sum(-(-size // block) for size in sizes)
    return [Payload(GATHER, 4 * blocks), Payload(SUM, block * blocks)] if sizes else []


def sum_of_levels(
    items: Sequence[Item], block: int, noise: Sequence[tf.Tensor] | None
) -> Rounds[list[Outcome]]:
    """Sums all items over two ranks; a round for the scales, one for the levels.

    Args:
        items: The tensors.
        block: Elements to a scale: a multiple of 4.
        noise: The seeds of stochastic rounding, for each item and on each rank
            another one; None: to nearest.

    Returns:
        An outcome for each item, without state.
    """
    values = [_in_blocks(item.tensor, block) for item in items]
    # Not of absolute numbers, which would be written to memory first.
    own = [
        tf.maximum(tf.reduce_max(each, axis=1), -tf.reduce_min(each, axis=1))
        for each in values
    ]
    groups = groups_of(values)
    largest = yield [
        Wire(each, GATHER, group) for each, group in zip(own, groups, strict=True)
    ]
    scales = [_scale(tf.reduce_max(of_ranks, axis=0)) for of_ranks in largest]
    # Not divided one by one: that takes three times as long.
    levels = [
        _rounded(each * tf.math.reciprocal_no_nan(scale), noise and noise[number])
        for number, (each, scale) in enumerate(zip(values, scales, strict=True))
    ]
    totals = yield [
        Wire(_packed(each), SUM, group)
        for each, group in zip(levels, groups, strict=True)
    ]
    return [
        Outcome(
            _out_of_blocks(_unpacked(total, block) * scale, item.tensor),
            _out_of_blocks(level * scale, item.tensor),
            {},
        )
        for item, total, level, scale in zip(items, totals, levels, scales, strict=True)
    ]


def _in_blocks(tensor: tf.Tensor, block: int) -> tf.Tensor:
    flat = tf.reshape(tensor, [-1])
    missing = -flat.shape[0] % block
    if missing:
        flat = tf.pad(flat, [[0, missing]])
    return tf.reshape(flat, [-1, block])


def _out_of_blocks(values: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    flat = tf.reshape(values, [-1])
    size = math.prod(like.shape)
    return tf.reshape(flat if flat.shape[0] == size else flat[:size], like.shape)


def _scale(largest: tf.Tensor) -> tf.Tensor:
    scale = largest[:, tf.newaxis] / LARGEST
    # Dividing by a denormal overflows; such blocks are zero, and fed back.
    return tf.where(scale < TINY, 0.0, scale)


def _rounded(levels: tf.Tensor, seed: tf.Tensor | None) -> tf.Tensor:
    if seed is None:
        return tf.round(levels)
    drawn = tf.random.stateless_uniform(levels.shape, seed, alg="philox")
    return tf.clip_by_value(tf.floor(levels + drawn), -LARGEST, LARGEST)


def _packed(levels: tf.Tensor) -> tf.Tensor:
    """Returns level + 64 in every byte: 1 to 127."""
    words = bits.to_words(tf.reshape(tf.cast(levels, tf.int8), [-1]))
    low = tf.bitwise.bitwise_and(words, _LOW_BITS)
    return tf.bitwise.bitwise_xor(low, _SECOND_BIT)


def _unpacked(words: tf.Tensor, block: int) -> tf.Tensor:
    """Returns the sums of two levels, whose bytes are 128 more."""
    signed = tf.bitwise.bitwise_xor(words, _HIGHEST_BIT)
    sums = tf.cast(bits.from_words(signed, tf.int8), tf.float32)
    return tf.reshape(sums, [-1, block])
