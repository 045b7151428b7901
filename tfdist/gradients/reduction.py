"""How the replicas' gradients become the gradient of an update.

A reduction is called in a replica context, once for each optimizer step, with the
gradients that have been unscaled and accumulated and are not yet clipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from tfdist.gradients.collectives import sum_gradients

Gradients = Sequence[tf.Tensor | tf.IndexedSlices]


class Kind(NamedTuple):
    """What is known of a gradient before it is computed.

    The path is the place among the trainable variables and the variable's own name:
    Keras's names of layers count what a process has built, so they may differ
    between ranks, and between a run and its resumption.
    """

    path: str
    shape: tuple[int, ...]
    dtype: tf.DType
    sparse: bool

    def as_plain_data(self) -> list[Any]:
        """Returns what JSON can hold."""
        return [self.path, list(self.shape), self.dtype.name, self.sparse]

    @classmethod
    def from_plain_data(cls, data: list[Any]) -> Kind:
        """Undoes `as_plain_data`."""
        path, shape, dtype, sparse = data
        return cls(path, tuple(shape), tf.as_dtype(dtype), sparse)


def plain_kinds(kinds: Sequence[Kind] | None) -> list[Any] | None:
    """Returns what JSON can hold; None stays None."""
    return None if kinds is None else [kind.as_plain_data() for kind in kinds]


def kinds_from_plain(data: Sequence[Any] | None) -> tuple[Kind, ...] | None:
    """Undoes `plain_kinds`."""
    return None if data is None else tuple(map(Kind.from_plain_data, data))


class Reduced(NamedTuple):
    """The gradients to update with, equal on all replicas."""

    gradients: Gradients
    finite: tf.Tensor | None = None  # False on all replicas: skip; None: never skip


class Reduction(Protocol):
    """One way to reduce; held by a path, used while an update is traced."""

    def __call__(self, gradients: Gradients, kinds: Sequence[Kind]) -> Reduced:
        """Returns the reduced gradients, one for each that is given."""


class PlainSum:
    """The sum over all replicas as it is: what one process computes."""

    def __call__(self, gradients: Gradients, kinds: Sequence[Kind]) -> Reduced:
        """Returns the sum; see `Reduction`."""
        del kinds
        return Reduced(sum_gradients(gradients))


def kinds_of(
    gradients: Gradients, variables: Sequence[Any], places: Sequence[int]
) -> tuple[Kind, ...]:
    """Describes gradients.

    Args:
        gradients: Dense or sparse, none missing.
        variables: The variables they belong to.
        places: Where these stand among all variables of the optimizer.
    """
    return tuple(
        Kind(
            f"{place}.{variable.name}",
            tuple(variable.shape),
            tf.as_dtype(gradient.dtype),
            isinstance(gradient, tf.IndexedSlices),
        )
        for gradient, variable, place in zip(gradients, variables, places, strict=True)
    )
