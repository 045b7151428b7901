"""A replica's share of the global batch, and of each denominator in its loss.

Keras divides a replica's loss by the replica's own count (examples, valid tokens,
sample weights) and by the number of replicas. The sum over replicas is the loss of
the whole batch only if all counts are equal. Otherwise term k of replica r has to be
weighted by `N * d[k, r] / sum over r of d[k, r]`, where N is the number of replicas
and d the denominator. All denominators of a step travel in one small collective,
during the forward pass; batches known to be equal need none.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

from tfdist.gradients import lanes
from tfdist.gradients.collectives import replicas, sum_tensors

_local = threading.local()


class Shares:
    """One replica's view of one step.

    Args:
        data: The replica's batch: a structure of tensors with examples along axis 0.
        equal: Whether all replicas are known to hold equally many examples.
        replica: Number of the replica among all, from 0.
    """

    def __init__(self, data: Any, *, equal: bool, replica: int) -> None:
        self.replica = replica
        self.is_weighing = False  # while the terms of a loss get their weights
        self.keras_adds_losses = False  # set where Keras counts those of `add_loss`
        self.loss_is_tracked = False  # set when Keras records the loss itself
        self._parts: list[tf.Tensor] = []  # see `note_part`
        first = next(
            (t for t in tf.nest.flatten(data, expand_composites=False) if _has_rows(t)),
            None,
        )
        self._first = first
        self._equal = equal or first is None or replicas() == 1
        self._rows: Any = None if self._equal else tf.cast(_rows(first), tf.float32)
        self._all_rows: Any = None

    @property
    def equal(self) -> bool:
        """Whether every replica holds equally many examples, known while tracing."""
        return self._equal

    @property
    def rows(self) -> Any:
        """The number of this replica's examples; float32."""
        return tf.cast(0 if self._first is None else _rows(self._first), tf.float32)

    @contextlib.contextmanager
    def weighing(self) -> Iterator[None]:
        """Marks the calls of loss objects whose weights are being taken care of."""
        before, self.is_weighing = self.is_weighing, True
        try:
            yield
        finally:
            self.is_weighing = before

    def weights(self, denominators: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Returns `N * d / sum of d` for each denominator of this replica.

        Args:
            denominators: Non-negative scalars, the same list on every replica.

        Returns:
            float32 scalars; 0 where no replica has anything to divide by.
        """
        own = [tf.cast(value, tf.float32) for value in denominators]
        rows = [] if self._rows is None or self._all_rows is not None else [self._rows]
        if not own and not rows:
            return []
        totals = tf.unstack(
            sum_tensors([tf.stack(own + rows)], lanes.CONTROL)[0], len(own + rows)
        )
        if rows:
            self._all_rows = totals.pop()
        return [
            tf.math.divide_no_nan(replicas() * value, total)
            for value, total in zip(own, totals, strict=True)
        ]

    def example_weight(self) -> tf.Tensor | None:
        """Returns `N * rows / all rows`, or None where it is 1 for all replicas."""
        if self._equal:
            return None
        self.weights([])
        return replicas() * self._rows / self._all_rows

    def note_part(self, value: Any) -> None:
        """Notes a value whose sum over the replicas is that of the whole batch."""
        self._parts.append(value)

    def is_part(self, value: Any) -> bool:
        """Returns whether a value is one that was noted: it, not a copy."""
        return any(value is part for part in self._parts)

    def own_mean(self, part: tf.Tensor) -> tf.Tensor:
        """Returns the mean over this replica's examples, of its part of the batch's.

        Weighted with the replica's examples, the mean of these means is the sum of the
        parts.
        """
        value, weight = part * replicas(), self.example_weight()
        if weight is None:
            return value
        return tf.math.divide_no_nan(value, tf.cast(weight, value.dtype))

    def has_examples(self) -> tf.Tensor | None:
        """Returns whether this replica has examples, or None where all do."""
        return None if self._equal else self._rows > 0


def _has_rows(value: Any) -> bool:
    shape = getattr(value, "shape", None)
    return shape is not None and tf.TensorShape(shape).rank != 0  # numpy's is a tuple


def _rows(value: Any) -> tf.Tensor:
    if isinstance(value, tf.RaggedTensor):
        return value.nrows()
    if isinstance(value, tf.SparseTensor):
        return value.dense_shape[0]
    return tf.shape(value)[0]


def current() -> Shares | None:
    """Returns the shares of the step that this thread traces or runs, if any."""
    return getattr(_local, "shares", None)


@contextlib.contextmanager
def entered(shares: Shares) -> Iterator[Shares]:
    """Makes `shares` the current ones of this replica's thread."""
    previous = current()
    _local.shares = shares
    try:
        yield shares
    finally:
        _local.shares = previous
