"""Half the bytes: float16 on the wire, float32 in the sum where it pays."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import tensorflow as tf

from tfdist.compression import bits
from tfdist.compression.compressor import Compressor, Item, Outcome, Place, Shape
from tfdist.compression.halves import halves_payload, sum_in_halves
from tfdist.compression.rounds import SUM, Payload, Rounds, Wire


class _Float16:
    block, words = 2, 1

    def encode(self, values: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        del seed
        return bits.to_words(to_float16(values, 1))

    def decode(self, packed: tf.Tensor) -> tf.Tensor:
        return tf.cast(bits.from_words(packed, tf.float16), tf.float32)


@dataclasses.dataclass(frozen=True)
class FP16(Compressor):
    """Casts to float16, sums, casts back: the first thing to try, and to beat.

    Horovod 0.28.1 takes four times as long to add float16 on CPUs as float32, for half
    the bytes. So, as with "bf16", bit patterns travel and are added in float32: through
    the two halves of an all-reduce, or gathered by two ranks. Under tf.distribute,
    whose replica context has no all-to-all, more than two ranks sum in float16.

    Contributions are already divided by the global batch size, so partial sums stay
    in the range of the result. What lies beyond 65504 saturates (beyond 65504 / ranks
    where the sum is in float16): nothing can overflow. Below 6e-8 numbers vanish;
    "bf16" keeps the range.

    Not for error feedback: what saturates or vanishes would be owed for ever, and a
    sum in float16 rounds on the way, where no rank could note what was lost.

    Example:
        >>> tfdist.compression.get("fp16")
        FP16()
    """

    name = "fp16"

    def rounds(self, items: Sequence[Item], place: Place) -> Rounds[list[Outcome]]:
        """The two halves of an all-reduce, one gather, or one sum."""
        if _in_halves(place.ranks, place.has_all_to_all):
            seed = tf.zeros([2], tf.int64)
            return (yield from sum_in_halves(items, _Float16(), place, seed))
        sent = [to_float16(item.tensor, place.ranks) for item in items]
        totals = yield [Wire(tf.reshape(wire, [-1]), SUM) for wire in sent]
        return [
            item.outcome(tf.cast(total, tf.float32), tf.cast(wire, tf.float32))
            for item, wire, total in zip(items, sent, totals, strict=True)
        ]

    def payload(
        self, shapes: Sequence[Shape], ranks: int, has_all_to_all: bool
    ) -> list[Payload]:
        """Two bytes an element, each tensor padded to an even number of them."""
        sizes = [math.prod(shape) for shape in shapes]
        if _in_halves(ranks, has_all_to_all):
            return halves_payload(sizes, 2, 1, ranks, has_all_to_all)
        return [Payload(SUM, 2 * sum(sizes))]


def to_float16(values: tf.Tensor, ranks: int) -> tf.Tensor:
    """Casts to float16 such that a sum over the ranks cannot overflow."""
    limit = tf.float16.max / ranks
    # Rounded towards zero: the nearest float16 may lie above the limit.
    limit = float(limit) * (1 - 2**-11)
    return tf.cast(tf.clip_by_value(values, -limit, limit), tf.float16)


def _in_halves(ranks: int, has_all_to_all: bool) -> bool:
    return has_all_to_all or ranks <= 2
