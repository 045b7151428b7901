"""The largest elements only."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import tensorflow as tf

from tfdist.compression.compressor import Compressor, Item, Outcome, Place, Shape
from tfdist.compression.rounds import GATHER, Payload, Rounds, Wire


@dataclasses.dataclass(frozen=True)
class TopK(Compressor):
    """Sends the largest elements of each tensor, and where they stand.

    Every rank chooses its own, so they can only be gathered: what arrives grows with
    the number of ranks, and a ratio of 1 / ranks already moves as much as no
    compression. For many ranks "randomk" and "powersgd" are the better choice.

    Values and indices travel together, the values as bit patterns in int32.

    Args:
        ratio: The share of elements to send, in (0, 1]; at least one of each tensor.

    Raises:
        ValueError: `ratio` is out of range.

    References:
        Stich, Cordonnier, Jaggi, Sparsified SGD with memory, NeurIPS 2018.

    Example:
        >>> tfdist.compression.get("topk", ratio=0.01)
        TopK(ratio=0.01)
    """

    ratio: float = 0.01

    name = "topk"
    contractive = True
    feedback = True

    def __post_init__(self) -> None:
        check_ratio(self, self.ratio)

    def rounds(self, items: Sequence[Item], place: Place) -> Rounds[list[Outcome]]:
        """One round: the gather."""
        wires, chosen = [], []
        for item in items:
            flat = tf.reshape(item.tensor, [-1])
            count = kept(self.ratio, flat.shape[0])
            _, indices = tf.math.top_k(tf.abs(flat), count, sorted=False)
            values = tf.gather(flat, indices)
            chosen.append(_scattered(indices, values, flat.shape[0]))
            wires.append(tf.concat([indices, tf.bitcast(values, tf.int32)], 0))
        gathered = yield [Wire(wire, GATHER) for wire in wires]
        outcomes = []
        for item, own, rows in zip(items, chosen, gathered, strict=True):
            count = rows.shape[1] // 2
            total = tf.zeros_like(own)
            # Rank by rank: no index repeats within a rank, so the order in which
            # floats are added, and with it the last bit, is the same everywhere.
            for rank in range(place.ranks):
                indices = rows[rank, :count]
                values = tf.bitcast(rows[rank, count:], tf.float32)
                total = tf.tensor_scatter_nd_add(total, indices[:, tf.newaxis], values)
            outcomes.append(item.outcome(total, own))
        return outcomes

    def payload(
        self, shapes: Sequence[Shape], ranks: int, has_all_to_all: bool
    ) -> list[Payload]:
        """Four bytes for each value and four for its index."""
        del ranks, has_all_to_all
        count = sum(kept(self.ratio, math.prod(shape)) for shape in shapes)
        return [Payload(GATHER, 8 * count)]

    def advise(self, shapes: Sequence[Shape], ranks: int, has_all_to_all: bool) -> None:
        """Warns where an uncompressed all-reduce moves no more bytes."""
        del shapes, has_all_to_all
        if self.ratio * ranks < 1:
            return
        gathered = 8 * self.ratio * (ranks - 1)
        reduced = 8 * (ranks - 1) / ranks
        self._warn(
            f"with {ranks} ranks, each receives {gathered:.3g} bytes an element, and "
            f"{reduced:.3g} without compression.",
            f"Use a ratio below 1/{ranks} = {1 / ranks:.3g}, or "
            '"randomk", which is summed.',
        )


def check_ratio(compressor: Compressor, ratio: float) -> None:
    """Refuses a share that is not in (0, 1]."""
    if isinstance(ratio, bool) or not isinstance(ratio, int | float):
        ok = False
    else:
        ok = 0 < ratio <= 1
    if not ok:
        compressor._refuse(
            "ratio is the share of elements to send",
            repr(ratio),
            "a number above 0, at most 1",
            "Pass ratio=0.01 to send one element in a hundred.",
        )


def kept(ratio: float, size: int) -> int:
    """Returns how many of `size` elements are sent."""
    return min(size, max(1, round(ratio * size)))


def _scattered(indices: tf.Tensor, values: tf.Tensor, size: int) -> tf.Tensor:
    return tf.scatter_nd(indices[:, tf.newaxis], values, [size])
