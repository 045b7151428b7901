"""Residuals of a run that goes on, with as many replicas as before or with others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RESIDUAL = "residual/"
Arrays = dict[str, np.ndarray]


def residuals_for(
    saved: Sequence[Arrays], *, replicas: int, first: int, count: int
) -> Arrays:
    """Returns what some replicas of a run remember, from what a run has saved.

    The sum of all residuals is what has not been sent yet. With another number of
    replicas, each gets the same part of it: nothing is lost, and what a linear
    compressor computes stays the same, up to rounding.

    Args:
        saved: Of each process that saved, in order: residuals with a leading
            dimension for its replicas; all else is equal everywhere.
        replicas: The replicas of the run that goes on.
        first: The first replica whose part is wanted.
        count: Their number.

    Returns:
        The same names, with a leading dimension of `count` for residuals.
    """
    own = dict(saved[0])
    for name in own:
        if not name.startswith(RESIDUAL):
            continue
        all_saved = np.concatenate([part[name] for part in saved])
        if len(all_saved) == replicas:
            own[name] = all_saved[first : first + count]
        else:
            part = (all_saved.sum(0, dtype="float64") / replicas).astype("float32")
            own[name] = np.stack([part] * count)
    return own
