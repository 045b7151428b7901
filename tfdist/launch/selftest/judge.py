"""What the processes found, compared: pure functions, and the reading of files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfdist.launch.selftest.registry import Check

TOLERANCE = 1e-5  # |value - reference| / max(1, |reference|), in float32


@dataclass(frozen=True)
class Outcome:
    """What one rank left of one check."""

    arrays: Mapping[str, np.ndarray]
    error: str = ""
    began: float = 0.0  # Unix time
    ended: float = 0.0


def read_outcome(folder: Path, check: Check, rank: int) -> Outcome | None:
    """Returns what a rank left in a folder, or None if it left nothing."""
    file = folder / f"{check.name}.{rank}.json"
    if not file.exists():
        return None
    with np.load(file.with_suffix(".npz"), allow_pickle=False) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    return Outcome(found, **json.loads(file.read_text()))


def judge(
    check: Check, ranks: Sequence[Outcome | None], reference: Outcome | None
) -> str:
    """Returns why a check failed, or "" if it passed.

    Args:
        check: Which check.
        ranks: What each rank left; None: nothing.
        reference: What plain Keras left; only looked at where the check is compared.
    """
    raised = [
        (outcome.ended, rank, outcome.error)
        for rank, outcome in enumerate(ranks)
        if outcome is not None and outcome.error
    ]
    if raised:
        # The first: what the others raise then is often that they lost this one.
        _, rank, error = min(raised)
        return f"rank {rank}: {one_line(error)}"
    silent = [rank for rank, outcome in enumerate(ranks) if outcome is None]
    if silent:
        return f"rank {silent[0]} left no result"
    found = [outcome.arrays for outcome in ranks if outcome is not None]
    for rank, arrays in enumerate(found[1:], start=1):
        different = _first_different(found[0], arrays)
        if different:
            return f"ranks 0 and {rank} hold different bytes: {different}"
    if not check.compared:
        return ""
    if reference is None or reference.error:
        why = "it left no result" if reference is None else one_line(reference.error)
        return f"no comparison with one process: {why}"
    return _largest_difference(found[0], reference.arrays)


def seconds(ranks: Sequence[Outcome | None]) -> float:
    """Returns how long a check took on its slowest rank."""
    return max((each.ended - each.began for each in ranks if each), default=0.0)


def one_line(text: str) -> str:
    """Returns a message on one line, without what steers a terminal."""
    joined = " ".join(text.split())
    return "".join(each if each.isprintable() else "?" for each in joined)[:400]


def _first_different(
    left: Mapping[str, np.ndarray], right: Mapping[str, np.ndarray]
) -> str:
    for name in sorted(left.keys() | right.keys()):
        one, other = left.get(name), right.get(name)
        if one is None or other is None or one.tobytes() != other.tobytes():
            return name
    return ""


def _largest_difference(
    found: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]
) -> str:
    if found.keys() != reference.keys():
        return f"{sorted(found.keys() ^ reference.keys())} are not on both sides"
    worst, where = 0.0, ""
    for name, expected in reference.items():
        value = found[name]
        if value.shape != expected.shape:
            return f"{name}: expected {expected.shape}, received {value.shape}"
        gap = np.abs(value.astype("float64") - expected) / np.maximum(
            1.0, np.abs(expected.astype("float64"))
        )
        # A NaN is a difference, too.
        largest = float(np.max(np.where(np.isnan(gap), np.inf, gap), initial=0.0))
        if largest > worst:
            worst, where = largest, name
    if worst > TOLERANCE:
        return f"{where} differs from one process by {worst:.1e}"
    return ""
