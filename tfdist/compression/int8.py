"""A quarter of the bytes: 8-bit blocks with a scale each, added in float32."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import tensorflow as tf

from tfdist.compression import bits
from tfdist.compression.compressor import (
    Compressor,
    Item,
    Outcome,
    Place,
    Shape,
    draw_seed,
)
from tfdist.compression.halves import halves_payload, sum_in_halves
from tfdist.compression.levels import TINY, levels_payload, sum_of_levels, sums_levels
from tfdist.compression.rounds import Payload, Rounds


class _Blocks:
    def __init__(self, block: int, stochastic: bool) -> None:
        self.block, self.words, self._stochastic = block, block // 4 + 1, stochastic

    def encode(self, values: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        lead, count = values.shape[:-1], values.shape[-1] // self.block
        values = tf.reshape(values, [*lead, count, self.block])
        scale = tf.reduce_max(tf.abs(values), axis=-1, keepdims=True) / 127.0
        # Dividing by a denormal overflows; such blocks are zero, and fed back.
        scale = tf.where(scale < TINY, 0.0, scale)
        # Not divided one by one: that takes three times as long.
        levels = values * tf.math.reciprocal_no_nan(scale)
        if self._stochastic:
            noise = tf.random.stateless_uniform(levels.shape, seed, alg="philox")
            levels = tf.clip_by_value(tf.floor(levels + noise), -127.0, 127.0)
        else:
            levels = tf.round(levels)
        packed = tf.concat(
            [bits.to_words(tf.cast(levels, tf.int8)), tf.bitcast(scale, tf.int32)], -1
        )
        return tf.reshape(packed, [*lead, count * self.words])

    def decode(self, packed: tf.Tensor) -> tf.Tensor:
        lead, count = packed.shape[:-1], packed.shape[-1] // self.words
        packed = tf.reshape(packed, [*lead, count, self.words])
        levels = bits.from_words(packed[..., :-1], tf.int8)
        values = tf.cast(levels, tf.float32) * tf.bitcast(packed[..., -1:], tf.float32)
        return tf.reshape(values, [*lead, count * self.block])


@dataclasses.dataclass(frozen=True)
class Int8(Compressor):
    """Divides each block by its largest number and rounds to 255 levels.

    An element's error is at most max/254, so a block of b elements loses at most
    b/254^2 of its energy: a contraction for every permitted block. Rounded to
    nearest, errors repeat and have to be fed back; rounded stochastically, they
    average out, and error feedback is optional.

    What travels are 8-bit numbers packed in int32 (TensorFlow's collectives carry no
    int8), each block followed by the bits of its float32 scale. They are added in
    float32. Horovod: all-to-all and gather; tf.distribute: one gather, which pays for
    fewer than eight ranks. Two ranks agree on scales first, round to 127 levels, and
    let the collective add these: see `tfdist.compression.levels`.

    Args:
        block: Elements to a scale: a multiple of 4, below 254^2.
        stochastic: Round up or down at random, without bias.

    Raises:
        ValueError: `block` is out of range.

    References:
        Alistarh, Grubic, Li, Tomioka, Vojnovic, QSGD: communication-efficient SGD via
        gradient quantization and encoding, NeurIPS 2017 (here per block, with the
        largest number for a scale).

    Example:
        >>> tfdist.compression.get("int8", block=256)
        Int8(block=256, stochastic=False)
    """

    block: int = 256
    stochastic: bool = False

    name = "int8"
    contractive = True
    feedback = True
    robust = True

    def __post_init__(self) -> None:
        if (
            not isinstance(self.block, int)
            or not 0 < self.block < 254**2
            or self.block % 4
        ):
            self._refuse(
                "block is the number of elements to one scale",
                self.block,
                "a multiple of 4 from 4 to 64512",
                "Pass block=256.",
            )
        self._check_flags("stochastic")
        if self.stochastic:
            object.__setattr__(self, "unbiased", True)

    def rounds(self, items: Sequence[Item], place: Place) -> Rounds[list[Outcome]]:
        """Gather and sum; all-to-all and gather; or one gather."""
        # Ranks that rounded alike would not average their errors out.
        own = 2 * tf.stack([tf.cast(place.rank, tf.int64), tf.constant(0, tf.int64)])
        seeds = [draw_seed(place, item.key) + own for item in items]
        if sums_levels(self.block, place.ranks):
            noise = seeds if self.stochastic else None
            return (yield from sum_of_levels(items, self.block, noise))
        codec = _Blocks(self.block, self.stochastic)
        seed = seeds[0] if seeds else own
        return (yield from sum_in_halves(items, codec, place, seed))

    def payload(
        self, shapes: Sequence[Shape], ranks: int, has_all_to_all: bool
    ) -> list[Payload]:
        """A byte an element and four a block, each tensor padded to whole blocks."""
        sizes = [math.prod(shape) for shape in shapes]
        if sums_levels(self.block, ranks):
            return levels_payload(sizes, self.block)
        words = self.block // 4 + 1
        return halves_payload(sizes, self.block, words, ranks, has_all_to_all)
