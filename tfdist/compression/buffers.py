"""Flat buffers: what travels in the same round and way travels together.

In one buffer; or in a few if there is much of it, so that the first can travel while
the last is still computed. How many depends on the bytes alone, not on the number of
variables, and a buffer's layout never changes: neither do the rounding errors.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import tensorflow as tf

from tfdist.compression.compressor import Outcome
from tfdist.compression.rounds import ALL_TO_ALL, Rounds, Wire

# Bytes below which one more collective costs more time than it hides.
BUFFER_BYTES = 6 << 20
# For what one round sends in one way.
MOST_BUFFERS = 4


def buffers_of(sizes: Sequence[int], most: int) -> list[list[int]]:
    """Divides gradients among buffers that travel while others are still computed.

    The backward pass ends with the first variables: the last ones' gradients are
    there first. A buffer takes neighbours, so that it is complete early.

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
    enough = max(BUFFER_BYTES, sum(sizes) / most)
    buffers: list[list[int]] = [[]]
    filled = 0
    for place in reversed(range(len(sizes))):
        if filled >= enough and len(buffers) < most:
            buffers.append([])
            filled = 0
        buffers[-1].insert(0, place)
        filled += sizes[place]
    return buffers


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
    for index, (tensor, kind) in enumerate(wires):
        groups.setdefault((kind, tensor.dtype.name), []).append(index)
    buffers = [
        (kind, [indices[place] for place in places])
        for (kind, _), indices in groups.items()
        for places in buffers_of([_bytes(wires[i]) for i in indices], MOST_BUFFERS)
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


def _bytes(wire: Wire) -> int:
    return int(wire.tensor.shape.num_elements()) * wire.tensor.dtype.size
