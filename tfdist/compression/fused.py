"""All variables of a model through one compressor, in as few collectives as it needs.

Everything of one kind and dtype that has to travel in one round is put into one flat
buffer, so the number of collectives does not depend on the number of variables. What
the compressor does not take (vectors, small tensors) and one flag (is my gradient
finite?) ride in the first round.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import tensorflow as tf

from tfdist.compression.buffers import nothing, together, wire_dtype
from tfdist.compression.compressor import (
    Compressor,
    Item,
    Outcome,
    Place,
    Shape,
    settle_feedback,
    stable_key,
)
from tfdist.compression.residuals import RESIDUAL
from tfdist.compression.rounds import (
    SUM,
    Exchange,
    Payload,
    Rounds,
    Wire,
    perform,
    received,
)
from tfdist.compression.skipping import State, all_finite, harmless_if, taken_if

Scale: TypeAlias = float | tf.Tensor | None


class Slot(NamedTuple):
    """A variable: its name, shape and dtype."""

    path: str
    shape: Shape
    dtype: tf.DType


class Step(NamedTuple):
    """What a step brings."""

    totals: list[tf.Tensor]  # summed over the ranks, in the gradients' dtypes
    state: State
    finite: tf.Tensor  # the same on all ranks; False: zeros, and nothing has moved


class Fused:
    """A compressor applied to all gradients of a model, with error feedback.

    Pure: what it remembers is a flat dict of tensors that goes in and comes out.
    "step" and the compressor's own entries are equal on all ranks. The residuals
    ("residual/<path>", float32) are each rank's own; see `tfdist.compression.residuals`
    for a restart with another number of ranks.

    If a gradient is not finite on some rank, all ranks find out in the first round,
    return zeros, and keep the state as it was, bit by bit.

    Args:
        compressor: The compressor.
        slots: The variables, in the order of the gradients.
        ranks: The number of ranks; with one, gradients pass through, together with
            what several have left unsent.
        has_all_to_all: Whether the exchange has this collective.
        error_feedback: True, False or "auto".
        seed: From 0 to 2**32 - 1, equal on all ranks.
        min_size: Tensors with fewer elements travel uncompressed.

    Raises:
        ValueError: The compressor is unsound with or without error feedback.

    Example:
        >>> fused = Fused(get("powersgd", rank=4), slots, ranks=2)
        >>> state = fused.init()
        >>> totals, state, finite = fused.reduce(gradients, state, exchange)
    """

    def __init__(
        self,
        compressor: Compressor,
        slots: Sequence[Slot],
        ranks: int,
        *,
        has_all_to_all: bool = False,
        error_feedback: bool | str = "auto",
        seed: int = 0,
        min_size: int = 1024,
    ) -> None:
        self.compressor = compressor
        self.ranks = ranks
        self.has_all_to_all = has_all_to_all
        self.seed = seed
        self.error_feedback = settle_feedback(compressor, error_feedback)
        self.slots = _unique(slots)
        self.taken = [
            index
            for index, slot in enumerate(self.slots)
            if len(slot.shape) > 1
            and math.prod(slot.shape) >= min_size
            and compressor.takes(slot.shape)
        ]
        if ranks > 1 and self.taken:
            shapes = [self.slots[index].shape for index in self.taken]
            compressor.advise(shapes, ranks, has_all_to_all)

    def init(self) -> State:
        """Returns the state before the first step."""
        state = {"step": tf.zeros([], tf.int64)}
        for index in self.taken:
            slot = self.slots[index]
            own = self.compressor.init(stable_key(slot.path), slot.shape, self.seed)
            state |= {f"{name}/{slot.path}": value for name, value in own.items()}
            if self.error_feedback:
                state[RESIDUAL + slot.path] = tf.zeros(slot.shape)
        return state

    @tf.autograph.experimental.do_not_convert
    def reduce(
        self,
        gradients: Sequence[tf.Tensor],
        state: State,
        exchange: Exchange,
        residual_scale: Scale = None,
    ) -> Step:
        """Returns the compressed sum of all ranks' gradients.

        Args:
            gradients: Dense, one for each slot, this rank's contributions to the sum.
            state: What the last step returned.
            exchange: Carries the wires.
            residual_scale: Multiplies residuals first (the last learning rate over
                this one, where residuals are to be counted in steps of the weights).

        Returns:
            The sums, the new state, and whether all gradients were finite.
        """
        rounds = self.rounds(gradients, state, exchange.rank, residual_scale)
        return perform(rounds, exchange)

    def rounds(
        self,
        gradients: Sequence[tf.Tensor],
        state: State,
        rank: int | tf.Tensor,
        residual_scale: Scale = None,
        others_finite: tf.Tensor | bool = True,
    ) -> Rounds[Step]:
        """Yields the buffers of each round; see `reduce`.

        `others_finite` tells of gradients that travel elsewhere: all ranks skip the
        step where it is False on one of them.
        """
        if not gradients:
            return Step([], state, tf.constant(True))
        if self.ranks == 1:
            return self._alone(gradients, state, residual_scale)
        taken = set(self.taken)
        dense = [i for i in range(len(gradients)) if i not in taken]
        corrected = self._corrected(gradients, state, residual_scale)
        small = [gradients[index] for index in dense]
        if self.compressor.reveals:
            finite = tf.constant(True)  # small ones are summed as they are
        else:
            finite = all_finite([*corrected, *small], self.ranks)
        finite = tf.logical_and(finite, others_finite)
        if not self.compressor.robust:
            harmless = harmless_if(finite, [*corrected, *small])
            corrected, small = harmless[: len(corrected)], harmless[len(corrected) :]
        place = Place(self.ranks, rank, self.has_all_to_all, state["step"], self.seed)
        items = [
            Item(stable_key(self.slots[i].path), tensor, self._own(state, i))
            for i, tensor in zip(self.taken, corrected, strict=True)
        ]
        plain = _plain(small, finite)
        ours = self.compressor.rounds(items, place) if items else nothing()
        (sums, votes), outcomes, arrived = yield from together(plain, ours)
        totals: list[tf.Tensor] = list(gradients)
        for index, total in zip(dense, sums, strict=True):
            totals[index] = tf.cast(total, gradients[index].dtype)
        for index, outcome in zip(self.taken, outcomes, strict=True):
            totals[index] = _narrowed(outcome.total, gradients[index].dtype)
        # Sums of float16 are clipped beforehand, so that none can overflow: updates
        # need not wait for the last of them.
        arrived = [buffer for buffer in arrived if buffer.dtype != tf.float16]
        arrived += [totals[i] for i in dense if gradients[i].dtype == tf.float16]
        agreed = tf.logical_and(votes > self.ranks - 0.5, all_finite(arrived))
        new = self._next(state, corrected, outcomes)
        return Step(*taken_if(agreed, totals, new, state), agreed)

    def _alone(
        self, gradients: Sequence[tf.Tensor], state: State, scale: Scale
    ) -> Step:
        """Adds what several ranks have left unsent; then nothing is left."""
        if not (self.error_feedback and self.taken):
            return Step(list(gradients), state, tf.constant(True))
        wide = [tf.cast(g, wire_dtype(g.dtype)) for g in gradients]
        new = dict(state)
        for index in self.taken:
            wide[index] += tf.cast(self._left(index, state, scale), wide[index].dtype)
            name = RESIDUAL + self.slots[index].path
            new[name] = tf.zeros_like(state[name])
        totals = [
            _narrowed(total, gradient.dtype)
            for total, gradient in zip(wide, gradients, strict=True)
        ]
        finite = all_finite(wide)
        return Step(*taken_if(finite, totals, new, state), finite)

    def payload(self) -> list[Payload]:
        """Returns the bytes that a rank hands to each kind of collective in a step."""
        if self.ranks == 1 or not self.slots:
            return []
        taken = [self.slots[index].shape for index in self.taken]
        bytes_of = {SUM: 4 + self._plain_bytes(set(self.taken))}
        if taken:
            own = self.compressor.payload(taken, self.ranks, self.has_all_to_all)
            for kind, size in own:
                bytes_of[kind] = bytes_of.get(kind, 0) + size
        return [Payload(kind, size) for kind, size in bytes_of.items()]

    def bytes_on_wire(self) -> float:
        """Returns the bytes that reach each rank in a step; see `received`."""
        return sum(received(payload, self.ranks) for payload in self.payload())

    def bytes_uncompressed(self) -> float:
        """Returns what `bytes_on_wire` would be without a compressor."""
        return received(Payload(SUM, self._plain_bytes(set())), self.ranks)

    def fingerprint(self) -> int:
        """Returns a number that is equal where compressor, variables and seed are."""
        slots = [(path, shape, dtype.name) for path, shape, dtype in self.slots]
        own = [self.compressor.name, self.compressor.get_config(), self.error_feedback]
        return stable_key(json.dumps([*own, self.seed, self.taken, slots]))

    def _plain_bytes(self, without: set[int]) -> int:
        return sum(
            math.prod(slot.shape) * wire_dtype(slot.dtype).size
            for index, slot in enumerate(self.slots)
            if index not in without
        )

    def _own(self, state: State, index: int) -> State:
        entries = [(*name.partition("/"), value) for name, value in state.items()]
        return {
            name: value
            for name, _, path, value in entries
            if path == self.slots[index].path and name + "/" != RESIDUAL
        }

    def _corrected(
        self,
        gradients: Sequence[tf.Tensor],
        state: State,
        scale: Scale,
    ) -> list[tf.Tensor]:
        corrected = []
        for index in self.taken:
            value = tf.cast(gradients[index], tf.float32)
            if self.error_feedback:
                value += self._left(index, state, scale)
            corrected.append(value)
        return corrected

    def _left(self, index: int, state: State, scale: Scale) -> tf.Tensor:
        residual = state[RESIDUAL + self.slots[index].path]
        return residual if scale is None else scale * residual

    def _next(
        self, state: State, corrected: list[tf.Tensor], outcomes: list[Outcome]
    ) -> State:
        new = {"step": state["step"] + 1}
        for index, value, outcome in zip(self.taken, corrected, outcomes, strict=True):
            path = self.slots[index].path
            new |= {f"{name}/{path}": part for name, part in outcome.state.items()}
            if self.error_feedback:
                # What this rank's own share in the sum lacks, not what the sum lacks
                # of this rank's gradient: that difference would grow without bound.
                new[RESIDUAL + path] = value - outcome.local
        return new


def _unique(slots: Sequence[Slot]) -> list[Slot]:
    """Numbers repeated paths, in the order of the variables."""
    seen: dict[str, int] = {}
    result = []
    for path, shape, dtype in slots:
        seen[path] = seen.get(path, 0) + 1
        name = path if seen[path] == 1 else f"{path}#{seen[path]}"
        result.append(Slot(name, tuple(shape), tf.as_dtype(dtype)))
    return result


def _narrowed(total: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Casts a float32 sum to the gradient's dtype."""
    if dtype.size >= total.dtype.size:  # saturate_cast would clip all the same
        return tf.cast(total, dtype)
    # Residuals can add up to more than a float16 gradient can be.
    return tf.saturate_cast(total, dtype)


def _plain(
    tensors: list[tf.Tensor], finite: tf.Tensor
) -> Rounds[tuple[list[tf.Tensor], tf.Tensor]]:
    """Sums tensors as they are, and the votes of the ranks."""
    wires = [Wire(tf.cast(finite, tf.float32)[tf.newaxis], SUM)]
    for tensor in tensors:
        flat = tf.reshape(tf.cast(tensor, wire_dtype(tensor.dtype)), [-1])
        wires.append(Wire(flat, SUM))
    votes, *sums = yield wires
    shaped = [
        tf.reshape(total, tensor.shape)
        for total, tensor in zip(sums, tensors, strict=True)
    ]
    return shaped, votes[0]
