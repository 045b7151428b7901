"""The factor of the learning rate in every step, as a pure function."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from tfdist.errors import explain

from .rate_after import Fall, Lengths, steps_of

Rule = Callable[[float, float], Any]  # (base rate, ratio of the batches) -> rate
RULES = ("linear", "sqrt", "none")


@dataclass(frozen=True)
class RatePlan:
    """By what the base rate is multiplied.

    Attributes:
        first: The factor in step 0.
        full: The factor at the warm-up's end.
        warmup_steps: The steps in between, in which it changes in a straight line.
        fall: A factor to all that.
    """

    first: float
    full: float
    warmup_steps: int
    fall: Fall

    def factor(self, step: Any) -> tf.Tensor:
        """Returns the factor of a step; float64, as exact as Python's own floats."""
        step = tf.cast(step, tf.float64)
        rise = tf.cast(self.full, tf.float64)
        if self.warmup_steps:
            part = tf.minimum(step / float(self.warmup_steps), 1.0)
            rise = self.first + (self.full - self.first) * part
        return rise * self.fall(step)


def checked_rule(rule: str | Rule) -> str | Rule:
    """Returns the argument.

    Raises:
        ValueError: It is neither one of `RULES` nor a function of two numbers.
    """
    if rule in RULES or (callable(rule) and _takes_two(rule)):
        return rule
    raise ValueError(
        explain(
            "There is no such rule for the learning rate",
            received=f"rule={rule!r}",
            expected=f"{', '.join(map(repr, RULES))}, or a function of the base rate "
            "and the ratio",
            hint='Leave rule="linear" for SGD, pass rule="sqrt" for Adam.',
        )
    )


def full_factor(rule: str | Rule, ratio: float, base: float) -> float:
    """Returns the factor by which a rule scales the base rate.

    Args:
        rule: One of `RULES`, or a function of the base rate and the ratio.
        ratio: The global batch size over the one that the base rate is tuned for.
        base: The base rate.

    Raises:
        ValueError: The function's result is no learning rate.

    References:
        Goyal et al., Accurate, large minibatch SGD, arXiv:1706.02677, 2017 (linear);
        Krizhevsky, One weird trick for parallelizing convolutional neural networks,
        arXiv:1404.5997, 2014 (square root).
    """
    if not callable(rule):
        return {"linear": ratio, "sqrt": math.sqrt(ratio), "none": 1.0}[rule]
    result = rule(base, ratio)
    try:
        scaled = float(result)
    except (TypeError, ValueError):
        scaled = math.nan
    if not (math.isfinite(scaled) and scaled > 0 and base > 0):
        raise ValueError(
            explain(
                "The rule does not make a learning rate of the base rate",
                received=f"{result!r} for the base rate {base:g} and the ratio "
                f"{ratio:g}",
                expected="positive, finite rates",
                hint='Check the function, or pass rule="linear".',
            )
        )
    return scaled / base


def first_factor(
    initial: float | str, full: float, warmup_steps: int, base: float
) -> float:
    """Returns the factor in step 0.

    Args:
        initial: The rate there, or "auto": the base rate. Where scaling does not raise
            the rate, that would be no warm-up: then it is one step's part of it.
        full: The factor at the warm-up's end.
        warmup_steps: The length of the warm-up.
        base: The base rate.
    """
    if initial != "auto":
        return float(initial) / base
    return 1.0 if full > 1.0 else full / max(warmup_steps, 1)


def lengths_of(
    warmup_epochs: float, warmup_steps: int | None, params: dict[str, Any], made: int
) -> Lengths:
    """Returns the steps of the training.

    Args:
        warmup_epochs: The length of the warm-up.
        warmup_steps: The same in steps, if it is given so.
        params: Keras's "steps" (of an epoch, None if unknown) and "epochs".
        made: Steps that the optimizer has already made.

    Raises:
        ValueError: The warm-up's length is not known, or greater than the training's.
    """
    epoch, epochs = params.get("steps"), params.get("epochs")
    if warmup_steps is None and epoch is None and warmup_epochs:
        raise ValueError(
            explain(
                "The warm-up is counted in epochs of unknown length",
                received=f"warmup_epochs={warmup_epochs:g}, and data whose number of "
                "batches is not known",
                expected="a number of steps",
                hint="Pass warmup_steps, or steps_per_epoch to fit.",
            )
        )
    warmup = warmup_steps
    if warmup is None:
        warmup = steps_of(warmup_epochs, epoch) if epoch else 0
    total = epoch * epochs if epoch and epochs else None
    if total is not None and made < warmup and warmup > made + total:
        raise ValueError(
            explain(
                "The warm-up of the learning rate is longer than the training",
                received=f"a warm-up of {warmup} steps",
                expected=f"at most the training's {total} steps ({epochs} epochs of "
                f"{epoch})",
                hint="Pass a smaller warmup_epochs or warmup_steps.",
            )
        )
    return Lengths(warmup, epoch, total)


def _takes_two(rule: Rule) -> bool:
    try:
        inspect.signature(rule).bind(0.1, 2.0)
    except TypeError:
        return False
    except ValueError:  # of what is not written in Python, nothing is known
        return True
    return True
