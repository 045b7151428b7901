"""What every compressor promises, and which promises error feedback needs."""

from __future__ import annotations

import dataclasses
import math
import warnings
import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tfdist.compression.rounds import SUM, Payload, Rounds, received
from tfdist.errors import explain

Shape = tuple[int, ...]


class Item(NamedTuple):
    """One variable's part of a step."""

    key: int  # the same on all ranks and in every run: see `stable_key`
    tensor: tf.Tensor  # float32, the residual already added
    state: dict[str, tf.Tensor]  # what the compressor itself remembers

    def outcome(
        self,
        total: tf.Tensor,
        local: tf.Tensor,
        state: dict[str, tf.Tensor] | None = None,
    ) -> Outcome:
        """Returns what became of it, in the shape of the tensor: wires are flat."""
        shape = self.tensor.shape
        return Outcome(tf.reshape(total, shape), tf.reshape(local, shape), state or {})


class Place(NamedTuple):
    """Where and when a compressor runs."""

    ranks: int
    rank: int | tf.Tensor
    has_all_to_all: bool
    step: tf.Tensor  # int64 scalar, equal on all ranks
    seed: int


class Outcome(NamedTuple):
    """What became of one item."""

    total: tf.Tensor  # the sum over the ranks, bit-identical on all of them
    local: tf.Tensor  # this rank's share in that sum
    state: dict[str, tf.Tensor]


class Compressor(ABC):
    """Pure functions from a rank's contribution to the sum over all ranks.

    Contributions are summed, not averaged: Keras already divides them by the size
    of the global batch, so nothing has to be divided before or after the sum.

    A subclass is a frozen dataclass of its parameters in a file of its own, and
    declares what is true of it; tests measure each claim.

    Attributes:
        name: The name in the registry.
        contractive: E||x - C(x)||^2 <= (1 - delta) ||x||^2 with some delta > 0 for
            every x. Only then do residuals stay bounded.
        unbiased: E C(x) = x, so that errors average out without error feedback.
        linear: The result depends on the ranks' contributions only through their
            sum (up to rounding), and so does all that follows.
        feedback: Whether error feedback is on by default.
        needs_feedback: Without error feedback it may not converge at all.
        robust: Computes with what is not finite without harm, so its rounds need
            not wait until all gradients have been looked at.
        reveals: What is not finite in a contribution makes a sum of the first round
            not finite: nobody has to look for it. Only if it is robust.
    """

    name = ""
    contractive = False
    unbiased = False
    linear = False
    feedback = False
    needs_feedback = False
    robust = False
    reveals = False

    def takes(self, shape: Shape) -> bool:
        """Returns whether tensors of this shape are worth compressing."""
        return len(shape) > 1 and math.prod(shape) > 0

    def init(self, key: int, shape: Shape, seed: int) -> dict[str, tf.Tensor]:
        """Returns what the compressor remembers of a variable, before step 0."""
        del key, shape, seed
        return {}

    @abstractmethod
    def rounds(self, items: Sequence[Item], place: Place) -> Rounds[list[Outcome]]:
        """Yields the wires of each round; returns an outcome for each item."""

    @abstractmethod
    def payload(
        self, shapes: Sequence[Shape], ranks: int, has_all_to_all: bool
    ) -> list[Payload]:
        """Returns what a rank hands to the collectives, round by round."""

    def advise(self, shapes: Sequence[Shape], ranks: int, has_all_to_all: bool) -> None:
        """Warns where a rank would receive fewer bytes without this compressor."""
        sent = self.payload(shapes, ranks, has_all_to_all)
        with_it = sum(received(payload, ranks) for payload in sent)
        without = received(Payload(SUM, 4 * sum(map(math.prod, shapes))), ranks)
        if with_it >= without:
            self._warn(
                f"with {ranks} ranks, each receives {with_it:,.0f} bytes a step, but "
                f"only {without:,.0f} without compression.",
                'Use "powersgd" or "randomk", whose bytes do not grow with the ranks.',
            )

    def get_config(self) -> dict[str, Any]:
        """Returns the parameters, as plain values."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]

    def _refuse(self, problem: str, given: object, expected: str, hint: str) -> None:
        raise ValueError(
            explain(
                f"{type(self).__name__}: {problem}",
                received=given,
                expected=expected,
                hint=hint,
            )
        )

    def _check_flags(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if not isinstance(value, bool):  # "no" would count as yes
                self._refuse(
                    f"{name} is on or off",
                    repr(value),
                    "True or False",
                    f"Leave {name} out to get its default.",
                )

    def _warn(self, text: str, hint: str) -> None:
        text = f"{type(self).__name__}: {text}\nHINT: {hint}"
        warnings.warn(text, stacklevel=4)


def stable_key(path: str) -> int:
    """Returns a number for a variable's path: equal on all ranks and in every run.

    Python's own `hash` of a string differs between processes.
    """
    return zlib.crc32(path.encode())


def draw_seed(place: Place, key: int) -> tf.Tensor:
    """Returns the seed of one variable's draws in one step.

    All ranks draw the same numbers, the global generators are untouched, and a
    resumed run goes on where it stopped.
    """
    first = (place.seed << 32 ^ key) % 2**64
    signed = first - 2**64 if first >= 2**63 else first
    return tf.stack([tf.constant(signed, tf.int64), tf.cast(place.step, tf.int64)])


def settle_feedback(compressor: Compressor, error_feedback: bool | str) -> bool:
    """Decides whether a compressor runs with error feedback.

    Args:
        compressor: The compressor.
        error_feedback: True, False or "auto" (the compressor's default).

    Returns:
        Whether residuals are kept.

    Raises:
        ValueError: The pair is unsound, and why.

    References:
        Karimireddy, Rebjock, Stich, Jaggi, Error feedback fixes SignSGD and other
        gradient compression schemes, ICML 2019.
    """
    if error_feedback not in (True, False, "auto"):
        raise ValueError(
            explain(
                "error_feedback decides whether what was not sent is sent later",
                received=repr(error_feedback),
                expected='True, False or "auto"',
                hint='Leave error_feedback="auto".',
            )
        )
    if error_feedback == "auto":
        return compressor.feedback
    if error_feedback and not compressor.contractive:
        raise ValueError(
            explain(
                f"{compressor.name!r} is not a contraction: with error feedback its "
                "residuals would not stay bounded, or would be empty",
                received=f"{compressor} with error_feedback=True",
                expected="error feedback only where ||x - C(x)|| < ||x||",
                hint='Pass error_feedback="auto", or another compressor.',
            )
        )
    if not error_feedback and compressor.needs_feedback:
        raise ValueError(
            explain(
                f"{compressor.name!r} without error feedback fails to converge even "
                "on convex problems (Karimireddy et al. 2019, section 3)",
                received=f"{compressor} with error_feedback=False",
                expected="error feedback on",
                hint='Pass error_feedback="auto", or another compressor.',
            )
        )
    return bool(error_feedback)
