"""Half the bytes and the range of float32: bfloat16 on the wire, float32 in the sum."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import tensorflow as tf

from tfdist.compression import bits
from tfdist.compression.compressor import Compressor, Item, Outcome, Place, Shape
from tfdist.compression.halves import halves_payload, sum_in_halves
from tfdist.compression.rounds import Payload, Rounds


class _BFloat16:
    block, words = 2, 1

    def encode(self, values: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        del seed
        return bits.to_words(tf.cast(values, tf.bfloat16))

    def decode(self, packed: tf.Tensor) -> tf.Tensor:
        return tf.cast(bits.from_words(packed, tf.bfloat16), tf.float32)


@dataclasses.dataclass(frozen=True)
class BF16(Compressor):
    """Rounds to bfloat16 for the wire; nothing overflows that float32 can hold.

    Horovod 0.28.1 cannot add bfloat16 (horovod#4047), and eight bits of mantissa are
    too few to add in. So bit patterns travel, two in an int32, through the two halves
    of an all-reduce, and are added in float32 between them: the bytes of an
    all-reduce of half the size. Under tf.distribute, whose replica context has no
    all-to-all, they are gathered, which pays for fewer than four ranks.

    Example:
        >>> tfdist.compression.get("bf16")
        BF16()
    """

    name = "bf16"
    contractive = True

    def rounds(self, items: Sequence[Item], place: Place) -> Rounds[list[Outcome]]:
        """All-to-all and gather, or one gather."""
        seed = tf.zeros([2], tf.int64)
        return (yield from sum_in_halves(items, _BFloat16(), place, seed))

    def payload(
        self, shapes: Sequence[Shape], ranks: int, has_all_to_all: bool
    ) -> list[Payload]:
        """Two bytes an element, each tensor padded to an even number of them."""
        sizes = [math.prod(shape) for shape in shapes]
        return halves_payload(sizes, 2, 1, ranks, has_all_to_all)
