"""A table of what callbacks add, with intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.callbacks.candidates import NONE
from tests.pages import line

HEAD = ("callback", "ms per step", "more than without", "95 % interval", "left behind")
DRAWS = 10_000


def overhead(
    own: Sequence[float], without: Sequence[float], *, seed: int = 0
) -> tuple[float, float, float]:
    """Returns the median of own / without - 1 over the epochs, and its interval.

    Both were measured at the same time, so that what slowed an epoch down falls on
    both. The interval is the bootstrap's (Efron 1979), for 95 %.
    """
    ratios = np.asarray(own) / np.asarray(without) - 1
    draws = np.random.default_rng(seed)
    again = draws.choice(ratios, (DRAWS, len(ratios)))
    low, high = np.quantile(np.median(again, axis=1), (0.025, 0.975))
    return float(np.median(ratios)), float(low), float(high)


def report(found: dict) -> str:
    """Returns the table.

    Args:
        found: "seconds", of a step: turn -> epochs; and "operations": turn -> how
            many more operations a step has after its last `fit`, traced without
            callbacks, than one that never met any.
    """
    lines = [line(HEAD), "|---|---:|---:|---:|---:|"]
    for name, own in found["seconds"].items():
        cells = [name, f"{1000 * np.median(own):.3f}"]
        if name == NONE:
            cells += ["", ""]
        else:
            middle, low, high = overhead(own, found["seconds"][NONE])
            cells += [f"{middle:+.1%}", f"{low:+.1%} to {high:+.1%}"]
        lines.append(line([*cells, f"{found['operations'][name]} operations"]))
    return "\n".join(lines)
