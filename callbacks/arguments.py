"""Checks that several callbacks share."""

from __future__ import annotations

from typing import Any

from tfdist.arguments import checked_integer as checked_integer
from tfdist.arguments import checked_number as checked_number
from tfdist.arguments import checked_size as checked_size
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
