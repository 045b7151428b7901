"""Checks of arguments that several callbacks share."""

from __future__ import annotations

from typing import Any

from tfdist.errors import explain


def checked_integer(name: str, value: int, most: int | None = None) -> int:
    """Returns `value`.

    Raises:
        ValueError: It is not an integer from 0 to `most`.
    """
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if is_number and value >= 0 and (most is None or value <= most):
        return value
    limit = ">= 0" if most is None else f"from 0 to {most}"
    raise ValueError(
        explain(
            f"Wrong {name}",
            received=repr(value),
            expected=f"an integer {limit}",
            hint=f"Leave {name} out to get its default.",
        )
    )


def checked_size(name: str, size: int | None) -> int | None:
    """Returns `size`.

    Raises:
        ValueError: It is neither an integer from 1 on nor None.
    """
    if size is None or (checked_integer(name, size) and size):
        return size
    raise ValueError(
        explain(
            f"Wrong {name}",
            received=repr(size),
            expected="an integer >= 1",
            hint=f"Leave {name} out to get its default.",
        )
    )


def checked_number(name: str, value: Any) -> float:
    """Returns `value` as a float.

    Raises:
        ValueError: It is not a finite number from 0 on.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and 0 <= value < float("inf"):
        return float(value)
    raise ValueError(
        explain(
            f"Wrong {name}",
            received=repr(value),
            expected="a number >= 0",
            hint=f"Leave {name} out to get its default.",
        )
    )
