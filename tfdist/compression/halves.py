"""Sums of numbers in formats that no collective can add.

The two halves of an all-reduce, with the addition between them in float32: every rank
receives its chunk of all others (all-to-all), adds, and hands out the sum (gather).
Where there is no all-to-all (the replica context of tf.distribute), and for two ranks,
whom it saves nothing, everybody gathers everything and adds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import tensorflow as tf

from tfdist.compression.compressor import Item, Outcome, Place
from tfdist.compression.rounds import ALL_TO_ALL, GATHER, Payload, Rounds, Wire


class Codec(Protocol):
    """A format: `block` float32 numbers become `words` int32, along the last axis."""

    block: int
    words: int

    def encode(self, values: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Returns [..., blocks * words] of [..., blocks * block]."""

    def decode(self, packed: tf.Tensor) -> tf.Tensor:
        """Undoes `encode`, up to what the format loses."""


def uses_all_to_all(ranks: int, has_all_to_all: bool) -> bool:
    """Returns whether the sum takes two rounds."""
    return has_all_to_all and ranks > 2


def blocks_of(sizes: Sequence[int], block: int, rows: int) -> int:
    """Returns the number of blocks in each of `rows` equal chunks.

    Every tensor begins a block of its own: its scale depends on no other tensor.
    """
    return -(-sum(-(-size // block) for size in sizes) // rows)


def halves_payload(
    sizes: Sequence[int], block: int, words: int, ranks: int, has_all_to_all: bool
) -> list[Payload]:
    """Returns what `sum_in_halves` sends."""
    if not sizes:
        return []
    if not uses_all_to_all(ranks, has_all_to_all):
        return [Payload(GATHER, 4 * words * blocks_of(sizes, block, 1))]
    chunk = 4 * words * blocks_of(sizes, block, ranks)
    return [Payload(ALL_TO_ALL, ranks * chunk), Payload(GATHER, chunk)]


def sum_in_halves(
    items: Sequence[Item], codec: Codec, place: Place, seed: tf.Tensor
) -> Rounds[list[Outcome]]:
    """Sums all items over the ranks, in one buffer.

    The sum is rounded a second time where it is handed out. The rank that rounds it
    books this error on its own share, so that error feedback loses nothing: the
    shares still add up to the total.

    Args:
        items: The tensors.
        codec: The format that travels.
        place: Where this runs.
        seed: For stochastic rounding; two ranks' seeds have to differ.

    Returns:
        An outcome for each item, without state.
    """
    sizes = [int(item.tensor.shape.num_elements()) for item in items]
    twice = uses_all_to_all(place.ranks, place.has_all_to_all)
    rows = place.ranks if twice else 1
    own = _laid_out(items, sizes, codec.block, rows)
    wire = codec.encode(own, seed)
    local = codec.decode(wire)
    if twice:
        (arrived,) = yield [Wire(wire, ALL_TO_ALL)]
        chunk = tf.reduce_sum(codec.decode(arrived), axis=0)
        handed_out = codec.encode(chunk, seed + 1)
        lost = chunk - codec.decode(handed_out)
        mine = tf.one_hot(place.rank, place.ranks, dtype=tf.float32)
        local -= mine[:, tf.newaxis] * lost
        (everything,) = yield [Wire(handed_out, GATHER)]
        total = codec.decode(everything)
    else:
        (everything,) = yield [Wire(tf.reshape(wire, [-1]), GATHER)]
        # Row by row: adding along an axis takes a second pass over the memory.
        total = codec.decode(everything[0])
        for row in range(1, place.ranks):
            total += codec.decode(everything[row])
    return [
        Outcome(mean, share, {})
        for mean, share in zip(
            _taken_apart(total, items, sizes, codec.block),
            _taken_apart(local, items, sizes, codec.block),
            strict=True,
        )
    ]


def _laid_out(
    items: Sequence[Item], sizes: list[int], block: int, rows: int
) -> tf.Tensor:
    parts = []
    for item, size in zip(items, sizes, strict=True):
        parts.append(tf.reshape(item.tensor, [-1]))
        if size % block:
            parts.append(tf.zeros([block - size % block]))
    length = rows * block * blocks_of(sizes, block, rows)
    missing = length - sum(int(part.shape[0]) for part in parts)
    if missing:
        parts.append(tf.zeros([missing]))
    return tf.reshape(tf.concat(parts, 0), [rows, length // rows])


def _taken_apart(
    values: tf.Tensor, items: Sequence[Item], sizes: list[int], block: int
) -> list[tf.Tensor]:
    flat, parts, start = tf.reshape(values, [-1]), [], 0
    for item, size in zip(items, sizes, strict=True):
        part = tf.reshape(flat[start : start + size], item.tensor.shape)
        parts.append(part)
        start += -(-size // block) * block
    return parts
