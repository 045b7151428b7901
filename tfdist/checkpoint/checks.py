"""Checks of what a store is made with."""

from __future__ import annotations

import re
from typing import Any

from tfdist.checkpoint.manifest import MAX_STEP
from tfdist.errors import explain

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def check_positive(name: str, value: Any) -> None:
    """Raises ValueError if a number is not an integer >= 1."""
    if type(value) is not int or value < 1:
        raise _wrong(name, value, "an integer >= 1")


def check_seconds(name: str, value: Any) -> None:
    """Raises ValueError if a duration is not a finite number > 0."""
    if type(value) not in (int, float) or not 0 < value < float("inf"):
        raise _wrong(name, value, "seconds, more than 0")


def check_rank(rank: Any, size: Any) -> None:
    """Raises ValueError if a rank is not one of so many."""
    check_positive("size", size)
    if type(rank) is not int or not 0 <= rank < size:
        raise _wrong("rank", rank, f"an integer from 0 to {size - 1}, of size={size}")


def check_run_id(value: Any) -> None:
    """Raises ValueError if the name of a run is neither None nor a short word."""
    if value is not None and not (isinstance(value, str) and _RUN_ID.fullmatch(value)):
        raise _wrong("run_id", value, "up to 64 letters, digits, '.', '_' and '-'")


def check_step(value: Any) -> None:
    """Raises ValueError if a step is not an integer from 0 on, or too large."""
    if type(value) is not int or not 0 <= value <= MAX_STEP:
        raise _wrong("step", value, "an integer >= 0 of at most 18 digits")


def _wrong(name: str, value: Any, expected: str) -> ValueError:
    return ValueError(
        explain(
            f"Wrong {name}",
            received=repr(value),
            expected=expected,
            hint=f"Correct {name}, or leave it out if it has a default.",
        )
    )
