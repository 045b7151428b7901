"""Replicas that train on their own for a while, and then agree on common weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import keras
import numpy as np
import tensorflow as tf

from tfdist.errors import explain
from tfdist.gradients import lanes
from tfdist.gradients.attach import GradientPath, attach, path_of
from tfdist.gradients.collectives import mean_tensors, replicas
from tfdist.gradients.reduction import Gradients, Kind, Reduced


class OwnGradients:
    """The replica's own gradients, in the size that the sum of all would have.

    They come as parts of a sum over all replicas: a replica's part is its mean times
    its share of the batch. Times the number of replicas, the mean over the replicas
    is that sum, so plain steps followed by an average equal a step with the sum.
    """

    def __call__(self, gradients: Gradients, kinds: Sequence[Kind]) -> Reduced:
        """Returns the own gradients; see `Reduction`."""
        del kinds
        return Reduced([_times(gradient, replicas()) for gradient in gradients])


class OuterSteps:
    """Every so many steps: what the replicas have learned, as one outer step.

    The outer weights o are equal on all replicas. Replica i starts from them, makes
    its own steps to w_i, and then an outer optimizer is given the mean of o - w_i as
    gradient of o; all replicas go on from the new o. With plain SGD at rate 1 that is
    the mean of the w_i; with Nesterov momentum it is DiLoCo.

    What else the replicas learn on their own (moving statistics) becomes the mean.

    Args:
        path: The path of the optimizer that makes the replicas' own steps.
        weights: The trainable weights; all replicas share their values now.
        statistics: Other variables whose mean all replicas are to take.
        outer_optimizer: Applies the outer gradient; made in the strategy's scope.
        every: Updates of the weights between two outer steps.

    References:
        Douillard et al., DiLoCo: distributed low-communication training of language
        models, arXiv:2311.08105, 2023.
    """

    def __init__(
        self,
        path: GradientPath,
        weights: Sequence[Any],
        statistics: Sequence[Any],
        outer_optimizer: keras.optimizers.Optimizer,
        every: int,
    ) -> None:
        self._weights = list(weights)
        self._statistics = list(statistics)
        self._outer = outer_optimizer
        self._every, self._steps = every, every * path.steps_per_update
        with tf.init_scope(), path.strategy.scope():
            self._outer_weights = [
                keras.Variable(weight.numpy(), name=f"outer_{number}")
                for number, weight in enumerate(self._weights)
            ]
            # A mean need not satisfy what each replica's weights do.
            for outer, weight in zip(self._outer_weights, self._weights, strict=True):
                outer.constraint = weight.constraint
            outer_optimizer.build(self._outer_weights)
            attach(outer_optimizer)
            self._since = tf.Variable(
                tf.zeros([], tf.int64),
                trainable=False,
                synchronization=tf.VariableSynchronization.ON_READ,
            )
        self.path = cast(GradientPath, path_of(outer_optimizer))
        self.path.steps_per_update *= self._steps

    def works_for(
        self, path: GradientPath, weights: Sequence[Any], statistics: Sequence[Any]
    ) -> bool:
        """Returns whether it was made for these; see the arguments."""
        known, given = (
            [id(variable) for variable in variables]
            for variables in (self.replicated, [*weights, *statistics])
        )
        return known == given and self._steps == self._every * path.steps_per_update

    @property
    def replicated(self) -> list[Any]:
        """What each replica changes on its own: weights and statistics."""
        return [*self._weights, *self._statistics]

    @property
    def variables(self) -> list[Any]:
        """What is equal on all replicas between two outer steps."""
        return [*self._outer_weights, *self._outer.variables]

    def state(self) -> dict[str, Any]:
        """Returns what has to be remembered; equal on all processes.

        Returns:
            "variables" (arrays, in order) and the steps "since" the last outer one.
        """
        return {
            "variables": [variable.numpy() for variable in self.variables],
            "since": self.since,
        }

    def assign(self, state: dict[str, Any]) -> None:
        """Undoes `state`.

        Raises:
            ValueError: The state is of other weights or of another outer optimizer.
        """
        wanted = [tuple(variable.shape) for variable in self.variables]
        given = [np.shape(value) for value in state["variables"]]
        if given != wanted:
            raise ValueError(
                explain(
                    "What was saved does not fit LocalSGD's outer optimizer",
                    received=f"arrays of shapes {given}",
                    expected=f"{wanted}",
                    hint="Give LocalSGD the outer optimizer of the run that saved it, "
                    "and the model its trainable layers; or begin a new run with the "
                    "saved weights.",
                )
            )
        for variable, value in zip(self.variables, state["variables"], strict=True):
            variable.assign(value)
        self._set_since(state["since"])

    def begin(self) -> None:
        """Begins at the model's weights, which all replicas share now."""
        for outer, weight in zip(self._outer_weights, self._weights, strict=True):
            outer.assign(weight.numpy())
        self._set_since(0)

    @property
    def since(self) -> int:
        """The steps since the last outer one; 0: all replicas share their values."""
        return int(self._copies_of_since()[0])

    def _set_since(self, steps: int) -> None:
        for copy in self._copies_of_since():
            copy.assign(steps)

    def _copies_of_since(self) -> Sequence[Any]:
        strategy = self.path.strategy
        copies: Sequence[Any] = strategy.experimental_local_results(self._since)
        return copies

    def after_step(self) -> None:
        """Counts a step, and makes the outer one when it is due; on every replica."""
        self._since.assign(self._since.read_value() + 1)
        keras.ops.cond(
            self._since.read_value() >= self._steps, self._make, lambda: None
        )

    def settle(self) -> None:
        """Makes the outer step early, if there were steps since; on every replica."""
        keras.ops.cond(self._since.read_value() > 0, self._make, lambda: None)

    def _make(self) -> None:
        parts = [
            (outer.value - weight.value) / replicas()
            for outer, weight in zip(self._outer_weights, self._weights, strict=True)
        ]
        self._outer.apply(parts, self._outer_weights)
        values = [outer.value for outer in self._outer_weights]
        _assign(self._weights, [tf.identity(value) for value in values])
        own = [tf.convert_to_tensor(variable.value) for variable in self._statistics]
        _assign(self._statistics, mean_tensors(own, lanes.STATE))
        self._since.assign(0)


def _times(
    gradient: tf.Tensor | tf.IndexedSlices, factor: int
) -> tf.Tensor | tf.IndexedSlices:
    if isinstance(gradient, tf.IndexedSlices):
        values = gradient.values * factor
        return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
    return gradient * factor


def _assign(variables: Sequence[Any], values: Sequence[tf.Tensor]) -> None:
    """Gives each variable this replica's value, without asking the others."""

    def update(strategy: Any, values: Sequence[Any]) -> None:
        for variable, value in zip(variables, values, strict=True):
            strategy.extended.update(
                variable.value, _assigned, args=(value,), group=False
            )

    tf.__internal__.distribute.interim.maybe_merge_call(
        update, tf.distribute.get_strategy(), list(values)
    )


def _assigned(variable: Any, value: tf.Tensor) -> None:
    variable.assign(value, read_value=False)
