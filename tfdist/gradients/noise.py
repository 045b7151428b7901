"""How noisy the gradient is, measured while it is summed."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tfdist.gradients import lanes, shares
from tfdist.gradients.collectives import sum_tensors
from tfdist.gradients.reduction import Gradients, Kind, Reduced, Reduction


class NoiseMeasured:
    """A reduction that also estimates |G|^2 and tr(S), the gradient and its noise.

    Replica i contributes the part g_i of the batch's gradient g, of which p_i of all
    B examples are its own. With the true gradient G and the covariance S of one
    example's gradient,

        E |g|^2 = |G|^2 + tr(S) / B;  E sum |g_i|^2 = sum p_i^2 |G|^2 + tr(S) / B,

    of which both follow. Three more numbers travel: the sums of |g_i|^2, of the
    replicas' examples and of these squared.

    Args:
        inner: The reduction that is measured.
        strategy: The strategy in force.
        decay: Of the moving averages.
        steps: Batches of an update.

    References:
        McCandlish, Kaplan, Amodei, An empirical model of large-batch training,
        arXiv:1812.06162, 2018 (appendix A.1).
    """

    def __init__(
        self,
        inner: Reduction,
        strategy: tf.distribute.Strategy,
        *,
        decay: float,
        steps: int,
    ) -> None:
        self.inner = inner
        self._strategy = strategy
        self._decay, self._steps = decay, steps
        with tf.init_scope(), strategy.scope():
            # |G|^2, tr(S), B and 1; equal on all replicas, which assign them alike.
            self._averages = tf.Variable(
                tf.zeros([4], tf.float64),
                trainable=False,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            )

    def __call__(self, gradients: Gradients, kinds: Sequence[Kind]) -> Reduced:
        """Returns what the inner reduction does; see `Reduction`."""
        share = shares.current()
        rows = tf.zeros([]) if share is None else share.rows
        own = tf.stack([squared_norm(gradients), rows, rows**2])
        reduced = self.inner(gradients, kinds)
        (totals,) = sum_tensors([own], lanes.BUFFERS[-1])
        whole = tf.cast(squared_norm(reduced.gradients), tf.float64)
        parts, examples, squares = tf.unstack(tf.cast(totals, tf.float64))
        signal, noise = estimates(whole, parts, examples, squares)
        batch = examples * self._steps
        new = tf.stack([signal, noise * self._steps, batch, tf.ones_like(batch)])
        before = self._averages.read_value()
        after = self._decay * before + (1 - self._decay) * new
        usable = tf.reduce_all(tf.math.is_finite(new))
        self._averages.assign(tf.where(usable, after, before))
        return reduced

    @property
    def averages(self) -> list[float]:
        """|G|^2, tr(S), B and 1, each as a moving average from 0."""
        copies = self._strategy.experimental_local_results(self._averages)
        return [float(value) for value in copies[0].numpy()]

    @averages.setter
    def averages(self, values: Sequence[float]) -> None:
        for copy in self._strategy.experimental_local_results(self._averages):
            copy.assign(values)


def estimates(
    whole: tf.Tensor, parts: tf.Tensor, examples: tf.Tensor, squares: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns unbiased estimates of |G|^2 and tr(S).

    Args:
        whole: |g|^2 of the batch's gradient.
        parts: The sum of the replicas' |g_i|^2.
        examples: The batch's examples.
        squares: The sum of the squares of the replicas' numbers of examples.
    """
    signal = (whole - parts) / (1 - squares / examples**2)
    return signal, (whole - signal) * examples


def squared_norm(gradients: Gradients) -> tf.Tensor:
    """Returns the sum of the squares of all gradients, in float32."""
    total = tf.zeros([])
    for gradient in gradients:
        values = gradient
        if isinstance(gradient, tf.IndexedSlices):  # the same row may come twice
            rows, places = tf.unique(gradient.indices)
            values = tf.math.unsorted_segment_sum(
                gradient.values, places, tf.size(rows)
            )
        total += tf.reduce_sum(tf.square(tf.cast(values, tf.float32)))
    return total
