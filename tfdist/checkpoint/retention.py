"""Which checkpoints are kept: arithmetic on their steps and metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tfdist.checkpoint.checks import check_positive
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
class Retention:
    """Which steps to keep: the union of what the arguments ask for.

    Args:
        keep: So many of the newest.
        keep_every: Every step that is a multiple of this.
        keep_best: The best by a metric.

    Raises:
        ValueError: A number is not an integer >= 1.
    """

    keep: int = 3
    keep_every: int | None = None
    keep_best: Best | None = None

    def __post_init__(self) -> None:
        check_positive("keep", self.keep)
        if self.keep_every is not None:
            check_positive("keep_every", self.keep_every)


@dataclass(frozen=True)
class Kept:
    """What the choice needs to know of a step that is there."""

    finite: bool
    metrics: Mapping[str, Any]


def choose_kept(steps: Mapping[int, Kept], retention: Retention) -> set[int]:
    """Returns the steps to keep.

    Besides what is asked for, the newest step that is finite throughout. Of steps that
    are equally good the newer is the best; steps without the metric, or with NaN, are
    no candidates.
    """
    newest = sorted(steps, reverse=True)
    kept = set(newest[: retention.keep])
    kept.update([step for step in newest if steps[step].finite][:1])
    if retention.keep_every is not None:
        kept.update(step for step in newest if step % retention.keep_every == 0)
    if retention.keep_best is not None:
        kept.update(_best(steps, retention.keep_best))
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
