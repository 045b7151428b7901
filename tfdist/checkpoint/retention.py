"""Which checkpoints are kept: arithmetic on their steps and metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tfdist.errors import explain


@dataclass(frozen=True)
class Best:
    """Keeps the best step by a metric, besides the newest ones.

    Args:
        metric: A key of the manifest's `details["metrics"]`, such as "val_loss".
        mode: "min" or "max".

    Raises:
        ValueError: Another mode.
    """

    metric: str
    mode: str = "min"

    def __post_init__(self) -> None:
        if self.mode not in ("min", "max"):
            raise ValueError(
                explain(
                    "Unknown mode of the best checkpoint",
                    received=repr(self.mode),
                    expected="'min' or 'max'",
                    hint="mode='min' for a loss, mode='max' for an accuracy.",
                )
            )


@dataclass(frozen=True)
class Kept:
    """What the choice needs to know of a step that is there."""

    finite: bool
    metrics: Mapping[str, Any]


def choose_kept(
    steps: Mapping[int, Kept], keep: int, keep_every: int | None, best: Best | None
) -> set[int]:
    """Returns the steps to keep: a union.

    The newest `keep`; the newest one that is finite throughout; every multiple of
    `keep_every`; and the best by its metric, the newer one of equals. Steps without the
    metric, or with a NaN, are no candidates.
    """
    newest = sorted(steps, reverse=True)
    kept = set(newest[:keep])
    kept.update([step for step in newest if steps[step].finite][:1])
    if keep_every is not None:
        kept.update(step for step in newest if step % keep_every == 0)
    if best is not None:
        kept.update(_best(steps, best))
    return kept


def _best(steps: Mapping[int, Kept], best: Best) -> list[int]:
    sign = 1.0 if best.mode == "max" else -1.0
    values = {
        step: sign * float(value)
        for step, facts in steps.items()
        if isinstance(value := facts.metrics.get(best.metric), int | float)
        and not math.isnan(value)
    }
    return [max(values, key=lambda step: (values[step], step))] if values else []
