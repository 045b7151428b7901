"""When gradient compression begins."""

from __future__ import annotations

from typing import Any

from tfdist.errors import explain
from tfdist.gradients import keras_names
from tfdist.strategies import fits

_OF_UNKNOWN_LENGTH = 100  # steps without compression where their number is not known


def start_of(
    start_step: int | str, warmup_steps: int | None, params: dict[str, Any]
) -> int:
    """Returns the step from which to compress.

    Gradients change fast at first, and what is sent late then does most harm.

    Args:
        start_step: What the user said: a number, or "auto".
        warmup_steps: Steps in which the learning rate rises, if that is known.
        params: Keras's "steps" (of an epoch, None if unknown) and "epochs".

    References:
        Vogels, Karimireddy, Jaggi, PowerSGD, NeurIPS 2019; PyTorch's hook for it
        advises 10 % of all steps, and not less than the warm-up.
    """
    if start_step != "auto":
        return int(start_step)
    if warmup_steps:
        return warmup_steps
    steps, epochs = params.get("steps"), params.get("epochs")
    return steps * epochs // 10 if steps and epochs else _OF_UNKNOWN_LENGTH


def warmup_steps_of(optimizer: Any) -> int | None:
    """Returns the warm-up of the optimizer's rate, if it has one.

    Schedules tell it in their configuration, and so does what `LearningRateScaling`
    puts in the place of the rate.
    """
    rate = keras_names.rate_of(optimizer)
    try:
        config = rate.get_config() if hasattr(rate, "get_config") else {}
    except NotImplementedError:  # a user's own schedule need not have it
        config = {}
    steps = config.get("warmup_steps")
    return int(steps) if steps else None


def steps_before(model: Any, steps: int | None, warmup_steps: int | None) -> int:
    """Returns the steps of epochs that were made before a `fit`, by what it was told.

    Args:
        model: The model, in a `fit` whose `initial_epoch` tells it.
        steps: Of an epoch; None if unknown.
        warmup_steps: Steps in which the learning rate rises; a new optimizer makes
            them in this `fit`, whatever was made before.
    """
    fit = fits.running(model)
    before = fit.initial_epoch * (steps or 0) if fit is not None else 0
    return (
        min(before, keras_names.steps_of(model.optimizer)) if warmup_steps else before
    )


def checked_start(start_step: int | str) -> int | str:
    """Returns the argument.

    Raises:
        ValueError: It is neither "auto" nor an integer from 0 on.
    """
    is_number = isinstance(start_step, int) and not isinstance(start_step, bool)
    if start_step == "auto" or (is_number and int(start_step) >= 0):
        return start_step
    raise ValueError(
        explain(
            "start_step is the training step from which to compress",
            received=repr(start_step),
            expected='an integer >= 0, or "auto"',
            hint='Leave start_step="auto".',
        )
    )
