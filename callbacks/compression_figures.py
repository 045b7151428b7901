"""What an epoch's logs tell of gradient compression."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfdist.compression.residuals import RESIDUAL
from tfdist.gradients.attach import GradientPath
from tfdist.gradients.compressed import CompressedSum
from tfdist.strategies import synchronize

from .bytes_sent import dense_bytes


class Figures:
    """Counts an epoch's steps, and computes its figures."""

    def __init__(self) -> None:
        self.steps = 0  # in this epoch
        self.compressing = False
        self._compressed = 0
        self._timed = 0  # of these, by this process
        self._seconds = 0.0  # of computing, since compression began, on all ranks

    def begin_epoch(self, state: Sequence[int] = (0, 0)) -> None:
        """Starts to count anew, or from what an epoch has made that is resumed."""
        self.steps, self._compressed = state
        self._timed = 0

    def begin_sum(self) -> None:
        """Notes that another sum compresses from now on, which has its own clock."""
        self._seconds = 0.0

    @property
    def state(self) -> list[int]:
        """The epoch's steps so far, and how many of them were compressed."""
        return [self.steps, self._compressed]

    def count(self, steps: int) -> None:
        """Notes that the epoch has made this many steps."""
        more = (steps - self.steps) * self.compressing
        self._compressed += more
        self._timed += more
        self.steps = steps

    def of_epoch(
        self, strategy: Any, path: GradientPath, compressed: CompressedSum | None
    ) -> dict[str, float]:
        """Returns the entries for the logs, equal on all ranks.

        Args:
            strategy: The strategy in force.
            path: The optimizer's path.
            compressed: What compresses; None before it began.
        """
        ranks = strategy.num_replicas_in_sync
        dense = sent = dense_bytes(path, ranks)
        norm = milliseconds = 0.0
        if compressed is not None:
            squares, seconds = measured(strategy, compressed)
            norm = math.sqrt(squares / ranks)
            spent, self._seconds = seconds - self._seconds, seconds
            milliseconds = 1000 * spent / ranks / max(self._timed, 1)
            share = self._compressed / max(self.steps, 1)
            sent += share * (compressed.fused.bytes_on_wire() - dense)
        return {
            "bytes_per_step": sent / path.steps_per_update,
            "compression_ratio": dense / sent if sent else 1.0,
            "residual_norm": norm,
            "compression_ms": milliseconds,
        }


def measured(strategy: Any, compressed: CompressedSum) -> list[float]:
    """Returns the sums over all replicas of ||residuals||^2 and of the seconds."""
    residuals = [
        variable
        for name, variable in compressed.variables.items()
        if name.startswith(RESIDUAL)
    ]

    def replica() -> list[tf.Tensor]:
        squares = [tf.reduce_sum(tf.square(v.read_value())) for v in residuals]
        total = tf.add_n([tf.zeros([]), *squares])
        return [tf.cast(total, tf.float64), compressed.seconds.read_value()]

    variables = [*residuals, compressed.seconds]
    totals = synchronize.sums_of(strategy, "compression", variables, replica)
    return [float(total) for total in totals]
