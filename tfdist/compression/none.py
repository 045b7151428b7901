"""No compression: every tensor travels as it is."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import tensorflow as tf

from tfdist.compression.compressor import Compressor, Item, Outcome, Place, Shape
from tfdist.compression.rounds import SUM, Payload, Rounds, Wire


@dataclasses.dataclass(frozen=True)
class NoCompression(Compressor):
    """Sends every gradient in full: what the others are measured against.

    Right on every fast link, and wherever the step computes for longer than its
    gradients travel.

    Example:
        >>> tfdist.compression.get("none")
        NoCompression()
    """

    name = "none"
    unbiased = True
    linear = True

    def takes(self, shape: Shape) -> bool:
        """Returns False: whatever no compressor takes travels uncompressed."""
        del shape
        return False

    def rounds(self, items: Sequence[Item], place: Place) -> Rounds[list[Outcome]]:
        """One round: the sum."""
        del place
        totals = yield [Wire(tf.reshape(item.tensor, [-1]), SUM) for item in items]
        return [
            item.outcome(total, item.tensor)
            for item, total in zip(items, totals, strict=True)
        ]

    def payload(
        self, shapes: Sequence[Shape], ranks: int, has_all_to_all: bool
    ) -> list[Payload]:
        """Four bytes an element."""
        del ranks, has_all_to_all
        return [Payload(SUM, 4 * sum(map(math.prod, shapes)))]
