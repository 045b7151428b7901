"""Checks of what CheckpointRecovery is given."""

from __future__ import annotations

from typing import Any

from tfdist.checkpoint.retention import Best
from tfdist.errors import explain

from .arguments import checked_integer, checked_number


def checked_every(steps: Any, seconds: Any) -> tuple[int | None, float | None]:
    """Returns the two intervals; None where one is not given, or "auto".

    Raises:
        ValueError: One is not positive, or both are given.
    """
    steps, seconds = (None if each == "auto" else each for each in (steps, seconds))
    whole = None if steps is None else checked_integer("every_steps", steps, least=1)
    time = None if seconds is None else checked_positive("every_seconds", seconds)
    if whole is not None and time is not None:
        raise ValueError(
            explain(
                "Two intervals between checkpoints",
                received=f"every_steps={whole}, every_seconds={time:g}",
                expected="one of them, or neither for the best one",
                hint="Leave one out.",
            )
        )
    return whole, time


def checked_positive(name: str, value: Any) -> float:
    """Returns a number as a float.

    Raises:
        ValueError: It is not finite, or not greater than 0.
    """
    number = checked_number(name, value)
    if number == 0:
        raise ValueError(
            explain(
                f"Wrong {name}",
                received=repr(value),
                expected="a number > 0",
                hint=f"Leave {name} out to get its default.",
            )
        )
    return number


def checked_best(keep_best: Any) -> Best | None:
    """Returns which metric's best checkpoint stays.

    Raises:
        ValueError: It is no name of a metric, or one whose direction is not known.
    """
    if keep_best is None:
        return None
    if isinstance(keep_best, str) and keep_best.endswith(("loss", "error")):
        return Best(keep_best, "min")
    pair = list(keep_best) if isinstance(keep_best, list | tuple) else []
    if len(pair) == 2 and all(isinstance(word, str) for word in pair):
        return Best(*pair)
    raise ValueError(
        explain(
            "Wrong keep_best",
            received=repr(keep_best),
            expected="a loss such as 'val_loss', or a pair of a metric and 'min' or "
            "'max'",
            hint=f"keep_best=({keep_best!r}, 'max')"
            if isinstance(keep_best, str)
            else "keep_best=('val_accuracy', 'max')",
        )
    )
