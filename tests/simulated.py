"""Plays all ranks of a compressed step in one process, in lock-step.

A test double for the exchange alone: what it sums, gathers and hands out is what the
ranks' generators really yielded. It also refuses what a cluster would hang on: ranks
that ask for different collectives, dtypes or shapes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from tfdist.compression.fused import Fused, Step
from tfdist.compression.rounds import ALL_TO_ALL, GATHER, SUM, Wire

WIRE_DTYPES = (tf.float16, tf.float32, tf.float64, tf.int32)


class Sent(NamedTuple):
    """One collective: its round, kind, dtype, and the bytes of one rank's buffer."""

    round: int
    collective: str
    dtype: str
    bytes: int


def lockstep(ranks: list[Any]) -> tuple[list[Any], list[Sent]]:
    """Run the generators of all ranks; return their results and what was sent."""
    sent: list[Sent] = []
    answers: list[Any] = [None] * len(ranks)
    for number in range(100):
        asked, results = [], []
        for generator, answer in zip(ranks, answers, strict=True):
            try:
                asked.append(generator.send(answer))
            except StopIteration as end:
                results.append(end.value)
        if results:
            assert not asked, "some ranks went on when others had finished"
            return results, sent
        answers = [[] for _ in ranks]
        for wires in zip(*asked, strict=True):
            sent.append(checked(number, wires))
            for answer, value in zip(answers, exchanged(wires), strict=True):
                answer.append(value)
    raise AssertionError("the rounds never end")


def checked(number: int, wires: tuple[Wire, ...]) -> Sent:
    forms = {(w.collective, w.tensor.dtype, tuple(w.tensor.shape)) for w in wires}
    assert len(forms) == 1, f"ranks ask for different collectives: {forms}"
    ((kind, dtype, shape),) = forms
    assert dtype in WIRE_DTYPES, f"{dtype} does not travel everywhere"
    assert len(shape) == (2 if kind == ALL_TO_ALL else 1)
    size = int(wires[0].tensor.shape.num_elements()) * dtype.size
    return Sent(number, kind, dtype.name, size)


def exchanged(wires: tuple[Wire, ...]) -> list[tf.Tensor]:
    tensors = [wire.tensor for wire in wires]
    if wires[0].collective == SUM:
        total = tensors[0]
        for tensor in tensors[1:]:
            total += tensor
        return [total] * len(tensors)
    if wires[0].collective == GATHER:
        return [tf.stack(tensors)] * len(tensors)
    return [tf.stack([t[rank] for t in tensors]) for rank in range(len(tensors))]


def step(
    fused: Fused,
    gradients: list[list[tf.Tensor]],
    states: list[dict[str, tf.Tensor]],
    residual_scale: float | None = None,
) -> tuple[list[Step], list[Sent]]:
    """Run one step of all ranks; `gradients` and `states` are by rank."""
    return lockstep(
        [
            fused.rounds(own, state, rank, residual_scale)
            for rank, (own, state) in enumerate(zip(gradients, states, strict=True))
        ]
    )
