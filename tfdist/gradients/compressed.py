"""The compressed sum of the replicas' gradients, and what it remembers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfdist.compression.fused import Fused, Slot
from tfdist.compression.residuals import RESIDUAL
from tfdist.compression.rounds import perform
from tfdist.compression.skipping import all_finite
from tfdist.errors import explain
from tfdist.gradients import waiting
from tfdist.gradients.collectives import sum_slices
from tfdist.gradients.exchange import (
    ReplicaExchange,
    RunningStopwatch,
    Stopwatch,
    timed,
)
from tfdist.gradients.reduction import Gradients, Kind, Reduced

RATE = "compression/learning_rate"


class CompressedSum:
    """A reduction that sends what a compressor makes of the gradients.

    Sparse gradients travel as they are: a row that no example has touched is not in
    them, so they are small already, and a residual would make them dense.

    Every replica has its own variables for the compressor's state. The residuals
    differ between replicas; all else is equal on all of them.

    Args:
        fused: The compressor for the dense ones among the gradients.
        kinds: All gradients, in order.
        strategy: The strategy in force.
        learning_rate: Returns the optimizer's rate; residuals are then counted in
            steps of the weights (Zheng, Huang, Kwok, Communication-efficient
            distributed blockwise momentum SGD with error-feedback, NeurIPS 2019).
            None: in gradients.
        timed: Whether to measure the time that compression takes.
    """

    def __init__(
        self,
        fused: Fused,
        kinds: Sequence[Kind],
        strategy: tf.distribute.Strategy,
        *,
        learning_rate: Callable[[], Any] | None = None,
        timed: bool = False,
    ) -> None:
        self.fused = fused
        self.kinds = tuple(kinds)
        self._strategy = strategy
        self._learning_rate = learning_rate
        self._timed = timed
        initial = fused.init() | {RATE: tf.zeros([])}
        with tf.init_scope(), strategy.scope():
            self.variables = {
                name: _on_each_replica(value) for name, value in initial.items()
            }
            self.seconds = _on_each_replica(tf.zeros([], tf.float64))

    @tf.autograph.experimental.do_not_convert
    def __call__(self, gradients: Gradients, kinds: Sequence[Kind]) -> Reduced:
        """Returns the sum as all replicas know it; see `Reduction`."""
        self._check(kinds)
        results = list(gradients)
        sparse = [i for i, kind in enumerate(kinds) if kind.sparse]
        dense = [i for i, kind in enumerate(kinds) if not kind.sparse]
        measured = self._timed or waiting.current().measures
        watch = RunningStopwatch() if measured else Stopwatch()
        state = {name: v.read_value() for name, v in self.variables.items()}
        last_rate = state.pop(RATE)
        own = [tf.convert_to_tensor(gradients[index]) for index in dense]
        watch.go(own)
        scale, rate = self._residual_scale(last_rate)
        exchange = ReplicaExchange()
        others = all_finite([gradients[index].values for index in sparse])
        rounds = self.fused.rounds(own, state, exchange.rank, scale, others)
        step = perform(timed(rounds, watch), exchange)
        watch.stop(step.totals)
        # A skipped step has not scaled the residuals.
        rate = tf.where(step.finite, rate, last_rate)
        for name, value in {**step.state, RATE: rate}.items():
            self.variables[name].assign(value)
        if isinstance(watch, RunningStopwatch):
            waiting.current().computing(watch.seconds)
            self.seconds.assign(self.seconds.read_value() + watch.seconds)
        for index, total in zip(dense, step.totals, strict=True):
            results[index] = total
        summed = sum_slices([results[index] for index in sparse])
        for index, total in zip(sparse, summed, strict=True):
            results[index] = total
        finite = step.finite
        if not dense:  # then nobody has voted; but these rows are those of all ranks
            finite = all_finite([total.values for total in summed])
        return Reduced(results, finite)

    def _residual_scale(self, last: tf.Tensor) -> tuple[tf.Tensor | None, tf.Tensor]:
        """Returns last rate / this rate, 1 where one of them is 0; and this rate."""
        if self._learning_rate is None:
            return None, last
        rate = tf.cast(self._learning_rate(), tf.float32)
        known = tf.logical_and(last > 0, rate > 0)
        scale = tf.where(known, last / tf.where(known, rate, 1.0), 1.0)
        return scale, tf.where(rate > 0, rate, last)

    def _check(self, kinds: Sequence[Kind]) -> None:
        if tuple(kinds) != self.kinds:
            changed = set(self.kinds) ^ set(kinds)
            raise ValueError(
                explain(
                    "The gradients are not those that compression began with",
                    received=f"a change in {sorted(kind.path for kind in changed)}",
                    expected="the same trainable variables in every step",
                    hint="After freezing or unfreezing layers, use a new "
                    "GradientCompression in the next fit.",
                )
            )

    def state(self) -> dict[str, np.ndarray]:
        """Returns what this process's replicas remember.

        Residuals have a leading dimension: the replicas of this process, in order.
        """
        return {
            name: np.stack(values) if name.startswith(RESIDUAL) else values[0]
            for name, values in (
                (name, [copy.numpy() for copy in self._copies(variable)])
                for name, variable in self.variables.items()
            )
        }

    def assign(self, state: dict[str, np.ndarray]) -> None:
        """Undoes `state`.

        Raises:
            ValueError: The state is of another compressor or of other gradients.
        """
        wanted, given = _shapes(self.state()), _shapes(state)
        if given != wanted:
            changed = sorted(name for name, _ in wanted.items() ^ given.items())
            raise ValueError(
                explain(
                    "What was saved does not fit the compressor and the gradients",
                    received=f"a change in {', '.join(dict.fromkeys(changed))}",
                    expected="the compressor, its parameters and the variables of the "
                    "run that saved it",
                    hint="Give GradientCompression the arguments it had; or begin a "
                    "new run with the saved weights.",
                )
            )
        for name, variable in self.variables.items():
            copies = self._copies(variable)
            values = (
                state[name]
                if name.startswith(RESIDUAL)
                else [state[name]] * len(copies)
            )
            for copy, value in zip(copies, values, strict=True):
                copy.assign(value)

    def _copies(self, variable: Any) -> Sequence[Any]:
        copies: Sequence[Any] = self._strategy.experimental_local_results(variable)
        return copies


def slots_of(kinds: Sequence[Kind]) -> list[Slot]:
    """Returns the slots of the dense ones among gradients."""
    return [Slot(k.path, k.shape, k.dtype) for k in kinds if not k.sparse]


def _shapes(state: dict[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {name: np.shape(value) for name, value in state.items()}


def _on_each_replica(value: tf.Tensor) -> tf.Variable:
    """Creates a variable that each replica reads and assigns by itself."""
    return tf.Variable(
        value,
        trainable=False,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.SUM,
    )
