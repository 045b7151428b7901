"""Checks that several callbacks share."""

from __future__ import annotations

import os
from typing import Any

from tfdist.arguments import checked_integer as checked_integer
from tfdist.arguments import checked_number as checked_number
from tfdist.arguments import checked_size as checked_size
from tfdist.errors import explain
from tfdist.strategies.training import KerasTraining


def checked_path(name: str, path: Any, *, hint: str) -> str:
    """Returns a path as a string.

    Raises:
        ValueError: It is no path.
    """
    if isinstance(path, str | os.PathLike):
        text = os.fspath(path)
        if isinstance(text, str) and text.strip():
            return text
    raise ValueError(
        explain(f"Wrong {name}", received=repr(path), expected="a path", hint=hint)
    )


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
