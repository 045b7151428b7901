"""The learning rate of an optimizer while it is scaled."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from tfdist.errors import explain
from tfdist.gradients import keras_names
from tfdist.strategies.steps import replaced

from .rate_plan import RatePlan


class ScaledRate:
    """Stands in an optimizer in the place of its rate, and multiplies it.

    Keras calls it for the rate of each step and, where someone sets the rate,
    `assign`. The variable that it stands for keeps the base rate: checkpoints and
    saved models hold what they would hold without it.

    Args:
        optimizer: The innermost optimizer.
        plan: The factors.
        momentum_correction: Whether SGD's velocity follows the rate.
    """

    def __init__(
        self, optimizer: Any, plan: RatePlan, *, momentum_correction: bool
    ) -> None:
        self.source = keras_names.rate_of(optimizer)
        self.plan = plan
        self._optimizer = optimizer
        self._updates = optimizer.gradient_accumulation_steps or 1
        self._corrects = (
            momentum_correction
            and isinstance(optimizer, keras.optimizers.SGD)
            and bool(optimizer.momentum)
        )

    @contextlib.contextmanager
    def in_force(self) -> Iterator[None]:
        """Puts it into the optimizer, and the optimizer's own rate back."""
        optimizer = self._optimizer
        own_config, own_update = optimizer.get_config, optimizer.update_step

        def get_config() -> Any:
            with replaced(optimizer, "_learning_rate", self.source):
                return own_config()

        def update_step(gradient: Any, variable: Any, learning_rate: Any) -> None:
            self._correct(variable)
            own_update(gradient, variable, learning_rate)

        with contextlib.ExitStack() as stack:
            stack.enter_context(replaced(optimizer, "_learning_rate", self))
            stack.enter_context(replaced(optimizer, "get_config", get_config))
            if self._corrects:
                stack.enter_context(replaced(optimizer, "update_step", update_step))
            yield

    def __call__(self) -> tf.Tensor:
        """Returns the rate of the step that comes next, in a graph or eagerly."""
        return self._at(tf.convert_to_tensor(self._optimizer._iterations.value))

    def assign(self, value: Any) -> None:
        """Sets the rate of the step that comes next; later steps follow the plan.

        Raises:
            TypeError: A schedule decides the rate, as in Keras.
            ValueError: The rate is 0 now.
        """
        if not isinstance(self.source, keras.Variable):
            raise TypeError(
                explain(
                    "The learning rate cannot be set",
                    received=f"a rate that is decided by {type(self.source).__name__}",
                    expected="an optimizer with a number as its learning_rate",
                    hint="Leave out the callback that sets the rate, or the schedule.",
                )
            )
        now, then = float(self()), float(value)
        if then == now:
            return
        factor = float(self.plan.factor(self._step(self._optimizer._iterations.value)))
        if factor == 0.0:
            raise ValueError(
                explain(
                    "The learning rate is 0 at this step of its plan, so that it "
                    "cannot be set to another value",
                    received=f"{then:g}",
                    expected="nothing that sets the rate now",
                    hint="Pass LearningRateScaling a positive `initial` or `final`.",
                )
            )
        self.source.assign(then / factor)
        if self._corrects and now > 0 and self._optimizer.built:
            for velocity in self._optimizer.momentums:
                velocity.assign(velocity * (then / now))

    def get_config(self) -> dict[str, Any]:
        """Tells what schedules tell as well, for those who look."""
        steps = self.plan.warmup_steps
        if not steps and isinstance(self.source, _Schedule):
            return dict(self.source.get_config())
        return {"warmup_steps": steps}

    def _at(self, iterations: tf.Tensor) -> tf.Tensor:
        """Returns the rate at a number of iterations.

        Keras's schedules count batches, also where gradients are accumulated. The
        plan does so too, but its factor is that of an update's first batch: so the
        first update is made with the first factor.
        """
        base = self._base_rate(iterations)
        factor = self.plan.factor(self._step(iterations))
        return tf.cast(tf.cast(base, tf.float64) * factor, base.dtype)

    def _step(self, iterations: tf.Tensor) -> tf.Tensor:
        return iterations // self._updates * self._updates

    def _base_rate(self, iterations: tf.Tensor) -> tf.Tensor:
        if isinstance(self.source, keras.Variable):
            return tf.convert_to_tensor(self.source.value)
        if isinstance(self.source, _Schedule):
            return tf.convert_to_tensor(self.source(iterations))
        return tf.convert_to_tensor(self.source())

    def _correct(self, variable: Any) -> None:
        """Scales the velocity of a variable to the rate of the update that is made.

        Keras's velocity holds past gradients times their rates. So that it does not
        lag behind a rate that changes, it is multiplied by this rate / the last one.
        """
        iterations = tf.convert_to_tensor(self._optimizer._iterations.value)
        last = iterations - self._updates
        now, before = self._at(iterations), self._at(tf.maximum(last, 0))
        known = tf.logical_and(last >= 0, before > 0)
        ratio = tf.where(known, now / tf.where(known, before, 1.0), 1.0)
        velocity = self._optimizer.momentums[
            self._optimizer._get_variable_index(variable)
        ]
        self._optimizer.assign(
            velocity,
            keras.ops.multiply(velocity, keras.ops.cast(ratio, velocity.dtype)),
        )


_Schedule = keras.optimizers.schedules.LearningRateSchedule


def steps_made(optimizer: Any) -> int:
    """Returns the number of batches that an optimizer has seen."""
    return int(keras.ops.convert_to_numpy(optimizer._iterations))


def read_rate(optimizer: Any) -> float:
    """Returns what an optimizer's rate is in step 0, or now if it is a number."""
    source = keras_names.rate_of(optimizer)
    if isinstance(source, _Schedule):
        return float(source(0))
    value = source() if callable(source) else source
    return float(keras.ops.convert_to_numpy(value))
