"""Half the bytes: float16 on the wire and in the sum."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import tensorflow as tf

from tfdist.compression.compressor import Compressor, Item, Outcome, Place, Shape
from tfdist.compression.rounds import SUM, Payload, Rounds, Wire


@dataclasses.dataclass(frozen=True)
class FP16(Compressor):
    """Casts to float16, sums, casts back: the first thing to try, and to beat.

    Contributions are already divided by the global batch size, so partial sums stay
    in the range of the result. What lies beyond 65504 / ranks saturates there:
    no sum can overflow. Below 6e-8 numbers vanish; "bf16" keeps the range.

    Not for error feedback: the sum itself rounds, on the way, where no rank could
    note what was lost.

    Example:
        >>> tfdist.compression.get("fp16")
        FP16()
    """

    name = "fp16"
    robust = True

    def rounds(self, items: Sequence[Item], place: Place) -> Rounds[list[Outcome]]:
        """One round: the sum."""
        sent = [to_float16(item.tensor, place.ranks) for item in items]
        totals = yield [Wire(tf.reshape(wire, [-1]), SUM) for wire in sent]
        return [
            item.outcome(tf.cast(total, tf.float32), tf.cast(wire, tf.float32))
            for item, wire, total in zip(items, sent, totals, strict=True)
        ]

    def payload(
        self, shapes: Sequence[Shape], ranks: int, has_all_to_all: bool
    ) -> list[Payload]:
        """Two bytes an element."""
        del ranks, has_all_to_all
        return [Payload(SUM, 2 * sum(map(math.prod, shapes)))]


def to_float16(values: tf.Tensor, ranks: int) -> tf.Tensor:
    """Casts to float16 such that a sum over the ranks cannot overflow."""
    limit = tf.float16.max / ranks
    # Rounded towards zero: the nearest float16 may lie above the limit.
    limit = float(limit) * (1 - 2**-11)
    return tf.cast(tf.clip_by_value(values, -limit, limit), tf.float16)
