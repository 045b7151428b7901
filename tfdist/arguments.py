"""Checks of numbers that users pass, worded alike everywhere."""

from __future__ import annotations

import math
from typing import Any

from tfdist.errors import explain


def checked_integer(
    name: str, value: int, *, least: int = 0, most: int | None = None
) -> int:
    """Returns `value`.

    Raises:
        ValueError: It is not an integer from `least` to `most`.
    """
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if is_number and value >= least and (most is None or value <= most):
        return value
    limit = f">= {least}" if most is None else f"from {least} to {most}"
    raise ValueError(
        explain(
            f"Wrong {name}",
            received=repr(value),
            expected=f"an integer {limit}",
            hint=f"Pass {name}={least} or more.",
        )
    )


def checked_size(name: str, size: int | None) -> int | None:
    """Returns `size`.

    Raises:
        ValueError: It is neither an integer from 1 on nor None.
    """
    return None if size is None else checked_integer(name, size, least=1)


def checked_number(
    name: str,
    value: Any,
    *,
    least: float = 0.0,
    above: float | None = None,
    most: float | None = None,
    otherwise: str = "",
) -> float:
    """Returns `value` as a float.

    Args:
        name: The argument's name.
        value: What was passed.
        least: The smallest number that is right.
        above: If given, instead of `least`, the largest that is too small.
        most: The largest number that is right, if there is one.
        otherwise: What the argument may be instead of a number.

    Raises:
        ValueError: It is not a finite number in that range.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and (value >= least if above is None else value > above):
        number = float(value)
        if math.isfinite(number) and (most is None or number <= most):
            return number
    limit = f">= {least:g}" if above is None else f"> {above:g}"
    limit += "" if most is None else f" and <= {most:g}"
    raise ValueError(
        explain(
            f"Wrong {name}",
            received=repr(value),
            expected=f"a number {limit}{otherwise and f', or {otherwise}'}",
            hint=f"Leave {name} out to get its default.",
        )
    )
