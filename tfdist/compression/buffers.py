"""Flat buffers: what travels in the same round and way travels together.

In one buffer; or in a few if there is much of it, so that the first can travel while
the last is still computed. How many depends on the bytes alone, not on the number of
variables, and a buffer's layout never changes: neither do the rounding errors.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator, Sequence
from typing import Any

import tensorflow as tf

from tfdist.compression.compressor import Outcome
from tfdist.compression.rounds import ALL_TO_ALL, Rounds, Wire

# Bytes below which one more collective costs more time than it hides; but the first
# one begins while the backward pass has only begun.
BUFFER_BYTES, FIRST_BYTES = 2 << 20, 1 << 20
# Likewise for groups, each of which is computed by operations of its own.
GROUP_BYTES = 6 << 20
# For what one round sends in one way.
MOST_BUFFERS, MOST_GROUPS = 4, 3


def buffers_of(sizes: Sequence[int], most: int) -> list[list[int]]:
    """Divides gradients among buffers that travel while others are still computed.

    The backward pass ends with the first variables: the last ones' gradients are
    there first. A buffer takes neighbours, so that it is complete early. The first
    one is small, to begin early; each is twice as large as the one before, since
    every collective costs time of its own; and what is left is halved, because the
    update waits for the last one.

    Args:
        sizes: The gradients' bytes, in the order of the variables.
        most: The largest number of buffers.

    Returns:
        The places of each buffer's members; the buffer that is complete first stands
        first.

    References:
        Li et al., PyTorch distributed: experiences on accelerating data parallel
        training, VLDB 2020 (section 3.2.3).
    """
    buffers: list[list[int]] = [[]]
    filled, left = 0, sum(sizes)
    enough = FIRST_BYTES if left >= FIRST_BYTES + BUFFER_BYTES else math.inf
    for place in reversed(range(len(sizes))):
        if filled >= enough and len(buffers) < most:
            left -= filled
            enough = max(BUFFER_BYTES, min(2 * filled, left // 2))
            buffers.append([])
            filled = 0
        buffers[-1].insert(0, place)
        filled += sizes[place]
    return buffers


def groups_of(tensors: Sequence[tf.Tensor]) -> list[int]:
    """Returns the groups of wires that are small for what they are computed from.

    While one group's travel, another one's are computed.

    Args:
        tensors: What they are computed from, in the order of the variables.
    """
    sizes = [_bytes(tensor) for tensor in tensors]
    each = max(GROUP_BYTES, sum(sizes) / MOST_GROUPS)
    before = itertools.accumulate(sizes, initial=0)
    return [int(start // each) for start, _ in zip(before, sizes, strict=False)]


def nothing() -> Rounds[list[Outcome]]:
    """A compressor that was given nothing."""
    yield from ()
    return []


def together(
    first: Rounds[Any], second: Rounds[Any]
) -> Generator[list[Wire], list[tf.Tensor], tuple[Any, list[Outcome], list[tf.Tensor]]]:
    """Runs two generators in step, their wires in common buffers.

    Returns:
        Both results, and every buffer that arrived equal on all ranks.
    """
    running: dict[int, Rounds[Any]] = {0: first, 1: second}
    answers: dict[int, list[tf.Tensor] | None] = {0: None, 1: None}
    results: dict[int, Any] = {}
    arrived: list[tf.Tensor] = []
    while running:
        wires: list[tuple[int, Wire]] = []
        for number, rounds in list(running.items()):
            try:
                asked = rounds.send(answers[number])  # type: ignore[arg-type]
            except StopIteration as end:
                results[number] = end.value
                del running[number]
            else:
                wires += [(number, wire) for wire in asked]
        if not running:
            break
        parts, shared = yield from _in_buffers([wire for _, wire in wires])
        arrived += shared
        answers = {number: [] for number in running}
        for (number, _), part in zip(wires, parts, strict=True):
            answers[number].append(part)  # type: ignore[union-attr]
    return results[0], results[1], arrived


def _in_buffers(
    wires: list[Wire],
) -> Generator[list[Wire], list[tf.Tensor], tuple[list[tf.Tensor], list[tf.Tensor]]]:
    """Sends all wires of one kind and dtype as one, or as few."""
    groups: dict[tuple[str, str], list[int]] = {}
    for index, wire in enumerate(wires):
        key = wire.collective, wire.tensor.dtype.name
        groups.setdefault(key, []).append(index)
    buffers = [
        (kind, [indices[place] for place in places])
        for (kind, _), indices in groups.items()
        for places in _divided([wires[index] for index in indices])
    ]
    received = yield [
        Wire(tf.concat([wires[index].tensor for index in indices], -1), kind)
        for kind, indices in buffers
    ]
    parts: list[tf.Tensor] = [None] * len(wires)
    for (_, indices), buffer in zip(buffers, received, strict=True):
        sizes = [int(wires[index].tensor.shape[-1]) for index in indices]
        pieces = tf.split(buffer, sizes, -1)
        for index, size, piece in zip(indices, sizes, pieces, strict=True):
            piece.set_shape([*piece.shape[:-1], size])
            parts[index] = piece
    shared = [
        buffer
        for (kind, _), buffer in zip(buffers, received, strict=True)
        if kind != ALL_TO_ALL
    ]
    return parts, shared


def _divided(wires: list[Wire]) -> list[list[int]]:
    """Returns the places of each buffer's wires, of one kind and dtype."""
    groups = sorted({wire.group for wire in wires}, reverse=True)
    if len(groups) == 1:
        return buffers_of([_bytes(wire.tensor) for wire in wires], MOST_BUFFERS)
    return [
        [place for place, wire in enumerate(wires) if wire.group == group]
        for group in groups
    ]


def _bytes(tensor: tf.Tensor) -> int:
    return int(tensor.shape.num_elements()) * tensor.dtype.size


def wire_dtype(dtype: tf.DType) -> tf.DType:
    """Returns what an uncompressed tensor is summed in."""
    return tf.float64 if dtype == tf.float64 else tf.float32
