"""Checks of arguments that several callbacks share."""

from __future__ import annotations

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
