"""Checks that several callbacks share."""

from __future__ import annotations

from typing import Any

from tfdist.errors import explain
from tfdist.strategies.training import KerasTraining


def require_own_strategy(name: str, strategy: Any) -> None:
    """Raises ValueError if a callback's model is not under a strategy of tfdist."""
    if not isinstance(strategy, KerasTraining):
        raise ValueError(
            explain(
                f"{name} needs a strategy of tfdist",
                received=f"a model under {type(strategy).__name__}",
                expected="MirroredStrategy, MultiWorkerMirroredStrategy or "
                "HorovodStrategy of tfdist",
                hint="Build the model under tfdist.strategy(...).scope().",
            )
        )


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
