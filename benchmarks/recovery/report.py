"""The tables: what saving costs, and where the time to recover goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.recovery.savers import NONE
from tests.pages import line

INTERVAL = 100  # steps between saves, as in real trainings
SAVING = (
    "saved by",
    "ms a save blocks",
    "largest",
    "ms it costs in all",
    "95 % interval",
    f"of {INTERVAL} steps",
)
RECOVERY = ("part", "seconds", "what happens")
PARTS = {
    "detection": "from `kill -9` until the launcher says so",
    "restart": "back-off, end of all ranks, new processes, imports, the model",
    "load": "reading, verifying and putting back a checkpoint, skipping data, a step",
}


def blocking(steps: Sequence[float], every: int) -> list[float]:
    """Returns what each saving step took longer than the median of all others."""
    times = np.asarray(steps)
    saving = np.zeros(len(times), bool)
    saving[every - 1 :: every] = True
    return list(times[saving] - np.median(times[~saving]))


def costs(steps: Sequence[float], every: int) -> list[float]:
    """Returns the seconds that each save adds to training.

    In the first half of the time until the next one a save blocks and is written; in
    the second half nothing is left of it. So its cost is the difference, with no need
    of another run: models that differ in nothing but their place in memory differ by
    several percent. The sooner the next save comes, the less the machine has changed.
    """
    periods = np.asarray(steps)[every - 1 :]
    periods = periods[: len(periods) // every * every].reshape(-1, every)
    half = every // 2
    return list(periods[:, :half].sum(1) - periods[:, -half:].sum(1))


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Returns where the median lies with 95 % confidence: two of the sorted values.

    How many of n values lie below the true median is binomial, about n/2 +- sqrt(n)/2.
    The farthest two if there are too few.
    """
    ordered = sorted(values)
    first = max(0, int(len(ordered) / 2 - 0.98 * len(ordered) ** 0.5))
    return ordered[first], ordered[-1 - first]


def saving_table(found: Mapping) -> str:
    """Returns the table of one model.

    Args:
        found: What benchmarks.recovery.program has written.
    """
    step = np.median([np.median(steps) for steps in found["seconds"][NONE]])
    lines = [
        f"{found['parameters'] / 1e6:.1f} M parameters, {found['bytes'] / 1e6:.0f} MB "
        f"of state, steps of {1000 * step:.0f} ms, a save every {found['every']}:\n",
        line(SAVING),
        "|---|---:|---:|---:|---|---:|",
    ]
    for name, rounds in found["seconds"].items():
        blocked = sum((blocking(steps, found["every"]) for steps in rounds), [])
        more = sum((costs(steps, found["every"]) for steps in rounds), [])
        low, high = median_interval(more)
        cells = [
            name,
            f"{1000 * np.median(blocked):.0f}",
            f"{1000 * max(blocked):.0f}",
            f"{1000 * np.median(more):.0f}",
            f"{1000 * low:.0f} to {1000 * high:.0f}",
            f"{np.median(more) / (INTERVAL * step):.2%}",
        ]
        lines.append(line(cells))
    return "\n".join(lines)


def recovery_table(seconds: Mapping[str, Sequence[float]]) -> str:
    """Returns the table of the times of several recoveries, by part."""
    lines = [line(RECOVERY), "|---|---:|---|"]
    for part, text in PARTS.items():
        values = seconds[part]
        spread = f"{min(values):.1f} to {max(values):.1f}"
        lines.append(line([part, f"{np.median(values):.1f} ({spread})", text]))
    return "\n".join(lines)
