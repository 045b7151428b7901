"""The scale of the loss in float16: there once, and watched."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from tfdist import cluster
from tfdist.errors import explain
from tfdist.gradients import keras_names
from tfdist.gradients.attach import attach, path_of
from tfdist.strategies.steps import replaced

from .scaled_rate import steps_made

_logger = logging.getLogger("tfdist")
_NEVER = 2**31 - 1  # steps to the next growth: the counter has 32 bits
SKIPPED_TOO_OFTEN = 0.2  # of an epoch's steps


def refuse_double(optimizer: Any, *, scaling: bool) -> None:
    """Raises ValueError if gradients are, or would be, divided by two loss scales.

    Each LossScaleOptimizer, and a `loss_scale_factor`, divides the gradients, but
    only the outermost multiplies the loss: Keras trains on with gradients that are
    too small by the scale, silently.

    Args:
        optimizer: The outermost optimizer.
        scaling: Whether a LossScaleOptimizer is going to be put around it if there
            is none.
    """
    scales = list(_scales(optimizer))
    if len(scales) + (scaling and "LossScaleOptimizer" not in scales) <= 1:
        return
    raise ValueError(
        explain(
            "The gradients would be divided by two loss scales, the loss multiplied "
            "by one",
            received=f"{' around '.join(scales)}"
            + ("" if len(scales) > 1 else ", and MixedPrecision with float16"),
            expected="one loss scale",
            hint="Compile with the optimizer alone, such as "
            "keras.optimizers.SGD(0.1); for a fixed scale pass "
            "MixedPrecision(..., loss_scale=1024.0).",
        )
    )


def _scales(optimizer: Any) -> Any:
    while optimizer is not None:
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            yield "LossScaleOptimizer"
        elif getattr(optimizer, "loss_scale_factor", None) is not None:
            yield f"loss_scale_factor={optimizer.loss_scale_factor:g}"
        optimizer = getattr(optimizer, "inner_optimizer", None)


def scaler_of(optimizer: Any) -> Any:
    """Returns the LossScaleOptimizer in a chain of optimizers, or None."""
    while optimizer is not None:
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            return optimizer
        optimizer = getattr(optimizer, "inner_optimizer", None)
    return None


def wrapped(model: Any, *, initial_scale: float, growth_steps: int) -> Any:
    """Returns the model's LossScaleOptimizer; puts one around its optimizer if needed.

    The optimizer, its slots and its gradient path stay what they are, and a saved
    model is compiled with both again. Call it inside the strategy's scope.
    """
    scaler = scaler_of(model.optimizer)
    if scaler is None:
        scaler = keras.optimizers.LossScaleOptimizer(
            model.optimizer,
            initial_scale=initial_scale,
            dynamic_growth_steps=growth_steps,
        )
        was_attached = path_of(model.optimizer) is not None
        model.optimizer = scaler
        keras_names.note_compiled(model, "optimizer", scaler)
        if was_attached:
            attach(scaler, model)
    keras_names.require(scaler, keras_names.LOSS_SCALE)
    if not scaler.built:
        scaler.build(model.trainable_variables)
    return scaler


@contextlib.contextmanager
def scaled_losses(scaler: Any) -> Iterator[None]:
    """Refuses, while a step is traced, gradients of a loss that nobody has scaled.

    Keras's own `train_step` calls `scale_loss`; one that a user wrote may not, and
    would train on silently with gradients that are too small by the scale.
    """
    scale, update = scaler.scale_loss, scaler._stateful_handle_finite_grads
    is_scaled = False

    def scale_loss(loss: Any) -> Any:
        nonlocal is_scaled
        is_scaled = True
        return scale(loss)

    def unscale_and_update(*args: Any) -> None:
        if not is_scaled:
            raise ValueError(
                explain(
                    "The gradients would be divided by the loss scale, though the loss "
                    "was not multiplied by it",
                    received="a train_step that does not call optimizer.scale_loss",
                    expected="a scaled loss to differentiate",
                    hint="loss = self.optimizer.scale_loss(loss), within the "
                    "GradientTape.",
                )
            )
        update(*args)

    with (
        replaced(scaler, "scale_loss", scale_loss),
        replaced(scaler, "_stateful_handle_finite_grads", unscale_and_update),
    ):
        yield


class Scale:
    """Decides the scale of one LossScaleOptimizer, for the next trace.

    Args:
        scaler: The optimizer.
        growth_steps: Between two growths, where it was saved while it was held.
    """

    def __init__(self, scaler: Any, *, growth_steps: int) -> None:
        self.scaler = scaler
        own: int = scaler.dynamic_growth_steps
        self._growth_steps = growth_steps if own == _NEVER else own

    @property
    def value(self) -> float:
        """The scale of the next step."""
        return float(keras.ops.convert_to_numpy(self.scaler.dynamic_scale))

    @property
    def counter(self) -> int:
        """Steps since the scale last changed."""
        return int(keras.ops.convert_to_numpy(self.scaler.step_counter))

    def assign(self, value: float, counter: int = 0) -> None:
        """Sets the scale, and the steps since it last changed."""
        self.scaler.dynamic_scale.assign(value)
        self.scaler.step_counter.assign(counter)

    def hold(self, value: float) -> None:
        """Keeps the scale at a value; steps that overflow are skipped all the same."""
        self.assign(value)
        self.scaler.dynamic_growth_steps = _NEVER
        counter = self.scaler.step_counter

        def skip() -> None:
            counter.assign(0)

        self.scaler._stateful_handle_non_finite_grads = skip

    def release(self) -> None:
        """Lets the scale grow and fall; where it was held, from its first value on."""
        if self.scaler.dynamic_growth_steps == _NEVER:
            self.assign(self.scaler.initial_scale)
        vars(self.scaler).pop("_stateful_handle_non_finite_grads", None)
        self.scaler.dynamic_growth_steps = self._growth_steps


class Skipped:
    """Counts the steps that were skipped, as batches that made no iteration.

    Exact for every strategy, and any `steps_per_execution` where an epoch's length is
    known, with no variable of its own: Keras counts only the batches whose gradients
    were finite.
    """

    def __init__(self, total: int = 0) -> None:
        self.total = total
        self._before = self._steps = 0

    def begin_epoch(self, optimizer: Any) -> None:
        """Starts an epoch."""
        self._before, self._steps = _finite_steps(optimizer), 0

    def resume_epoch(self, state: Sequence[int]) -> None:
        """Goes on in the middle of an epoch, from its `state` there."""
        self._before, self._steps = state

    @property
    def state(self) -> list[int]:
        """Iterations before this epoch, and its batches so far; 0 between epochs."""
        return [self._before, self._steps]

    def made(self, steps: int) -> None:
        """Notes how many batches of the epoch have been taken."""
        self._steps = steps

    def end_epoch(self, optimizer: Any) -> tuple[int, int]:
        """Returns the epoch's skipped and taken batches, and adds the former."""
        skipped = self._steps - (_finite_steps(optimizer) - self._before)
        self.total += skipped
        steps, self._steps = self._steps, 0
        return skipped, steps


def _finite_steps(optimizer: Any) -> int:
    return steps_made(keras_names.innermost(optimizer))


class Advice:
    """Warns of a scale that does not work, once for each reason."""

    def __init__(self) -> None:
        self._given: set[str] = set()

    def consider(self, skipped: int, steps: int, scale: float, *, held: bool) -> None:
        """Looks at an epoch.

        Args:
            skipped: Steps that were skipped.
            steps: Steps that were taken.
            scale: The scale at the end.
            held: Whether the scale is fixed.
        """
        if scale <= 1 and not held:
            self._say(
                "collapsed",
                f"MixedPrecision: the loss scale has fallen to {scale:g}: the "
                "gradients are not finite whatever the scale, or too large for "
                "float16. HINT: Look for NaN in the data and in the loss, lower the "
                'learning rate, or use MixedPrecision("mixed_bfloat16"), which has '
                "the range of float32. Clipping comes too late: it sees what is "
                "finite.",
            )
        if skipped > SKIPPED_TOO_OFTEN * steps:
            smaller = (
                "Pass a smaller loss_scale" if held else "Short epochs may begin so"
            )
            self._say(
                "skipped",
                f"MixedPrecision: {skipped} of {steps} steps of this epoch were "
                f"skipped because gradients overflowed float16. HINT: {smaller}; "
                "else lower the learning rate, keep the layers that overflow in "
                "float32 (keep_float32=['auto', name]), or use "
                'MixedPrecision("mixed_bfloat16").',
            )

    def _say(self, reason: str, text: str) -> None:
        if reason not in self._given and cluster.is_chief():
            _logger.warning(text)
        self._given.add(reason)
