"""Flat buffers: what travels in the same round and way travels together."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import tensorflow as tf

from tfdist.compression.compressor import Outcome
from tfdist.compression.rounds import ALL_TO_ALL, Rounds, Wire


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
    """Sends all wires of one kind and dtype as one."""
    groups: dict[tuple[str, str], list[int]] = {}
    for index, (tensor, kind) in enumerate(wires):
        groups.setdefault((kind, tensor.dtype.name), []).append(index)
    buffers = [
        Wire(tf.concat([wires[index].tensor for index in indices], -1), kind)
        for (kind, _), indices in groups.items()
    ]
    received = yield buffers
    parts: list[tf.Tensor] = [None] * len(wires)
    for indices, buffer in zip(groups.values(), received, strict=True):
        sizes = [int(wires[index].tensor.shape[-1]) for index in indices]
        pieces = tf.split(buffer, sizes, -1)
        for index, size, piece in zip(indices, sizes, pieces, strict=True):
            piece.set_shape([*piece.shape[:-1], size])
            parts[index] = piece
    shared = [
        buffer
        for (kind, _), buffer in zip(groups, received, strict=True)
        if kind != ALL_TO_ALL
    ]
    return parts, shared
