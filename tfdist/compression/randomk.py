"""Elements at random places that all ranks know."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import tensorflow as tf

from tfdist.compression.compressor import (
    Compressor,
    Item,
    Outcome,
    Place,
    Shape,
    draw_seed,
)
from tfdist.compression.fp16 import to_float16
from tfdist.compression.rounds import SUM, Payload, Rounds, Wire
from tfdist.compression.topk import check_ratio, kept


@dataclasses.dataclass(frozen=True)
class RandomK(Compressor):
    """Sends a random share of each tensor, the same places on all ranks.

    No index has to travel and values can be summed: the cheapest compressor to
    compute, and its bytes do not grow with the number of ranks. Places are drawn
    from (seed, variable, step): one in each of equally long strata, so that none is
    drawn twice and none is left out for ever.

    Args:
        ratio: The share of elements to send, in (0, 1]; at least one of each tensor.
        scaled: Multiply what is sent by 1 / ratio: unbiased, no contraction any
            more, for training without error feedback.
        wire: "float32" or "float16".

    Raises:
        ValueError: A parameter is out of range.

    References:
        Stich, Cordonnier, Jaggi, Sparsified SGD with memory, NeurIPS 2018.

    Example:
        >>> tfdist.compression.get("randomk", ratio=0.05)
        RandomK(ratio=0.05, scaled=False, wire='float32')
    """

    ratio: float = 0.05
    scaled: bool = False
    wire: str = "float32"

    name = "randomk"
    contractive = True
    linear = True
    feedback = True

    def __post_init__(self) -> None:
        check_ratio(self, self.ratio)
        check_wire(self, self.wire)
        self._check_flags("scaled")
        object.__setattr__(self, "linear", self.wire == "float32")
        if self.scaled:
            for attribute in ("contractive", "feedback"):
                object.__setattr__(self, attribute, False)
            object.__setattr__(self, "unbiased", True)

    def rounds(self, items: Sequence[Item], place: Place) -> Rounds[list[Outcome]]:
        """One round: the sum."""
        places, sent = [], []
        for item in items:
            flat = tf.reshape(item.tensor, [-1])
            count = kept(self.ratio, flat.shape[0])
            indices, lengths = strata(flat.shape[0], count, draw_seed(place, item.key))
            values = tf.gather(flat, indices)
            if self.scaled:  # by one over each element's chance
                values *= tf.cast(lengths, tf.float32)
            places.append(indices)
            sent.append(on_wire(values, self.wire, place.ranks))
        totals = yield [Wire(values, SUM) for values in sent]
        outcomes = []
        for item, indices, own, total in zip(items, places, sent, totals, strict=True):
            size = item.tensor.shape.num_elements()
            outcomes.append(
                item.outcome(_spread(total, indices, size), _spread(own, indices, size))
            )
        return outcomes

    def payload(
        self, shapes: Sequence[Shape], ranks: int, has_all_to_all: bool
    ) -> list[Payload]:
        """The values alone."""
        del ranks, has_all_to_all
        count = sum(kept(self.ratio, math.prod(shape)) for shape in shapes)
        return [Payload(SUM, tf.as_dtype(self.wire).size * count)]


def strata(size: int, count: int, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Draws one index from each of `count` strata of `size` elements.

    Returns:
        The indices, ascending, and the lengths of their strata (equal within one).
    """
    edges = tf.range(count + 1, dtype=tf.int64) * size // count
    starts, lengths = edges[:-1], edges[1:] - edges[:-1]
    # Philox by name: the default generator depends on the device.
    drawn = tf.random.stateless_uniform([count], seed, dtype=tf.float64, alg="philox")
    offsets = tf.cast(drawn * tf.cast(lengths, tf.float64), tf.int64)
    return starts + tf.minimum(offsets, lengths - 1), lengths


def _spread(values: tf.Tensor, indices: tf.Tensor, size: int) -> tf.Tensor:
    """Puts values at their places among zeros.

    Not by `scatter_nd`, which adds: no index repeats, and this is three times as fast.
    """
    sparse = tf.SparseTensor(
        indices[:, tf.newaxis], tf.cast(values, tf.float32), [size]
    )
    return tf.sparse.to_dense(sparse, validate_indices=False)


def check_wire(compressor: Compressor, wire: str) -> None:
    """Refuses a format that no collective can sum."""
    if wire not in ("float32", "float16"):
        compressor._refuse(
            "wire is the format that is summed on the way",
            repr(wire),
            '"float32" or "float16" (Horovod 0.28.1 cannot sum bfloat16)',
            'Pass wire="float16" to halve the bytes once more.',
        )


def on_wire(values: tf.Tensor, wire: str, ranks: int) -> tf.Tensor:
    """Casts to the format that is summed on the way."""
    return to_float16(values, ranks) if wire == "float16" else values
