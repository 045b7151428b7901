"""Pure comparison of the ranks of a run with one another and with one process."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.parallel.modes import Mode
from tests.parallel.registry import Results, Row


@dataclass(frozen=True)
class Outcome:
    """What one rank left of one row."""

    status: str  # ok, refused, error, hangs, crashed
    error: str
    seconds: float
    results: Results


@dataclass(frozen=True)
class Verdict:
    """What the comparison found."""

    kind: str  # equal, differs, ranks differ, refused, error, hangs, crashed, none
    detail: str = ""  # the largest difference and where, or the error
    difference: float = 0.0  # |value - reference| / max(1, |reference|)
    allowed: bool = True  # the row accepts this verdict


def read_outcomes(mode: Mode, row: str, out: Path) -> list[Outcome]:
    """Return what every rank left of a row, or why there is nothing."""
    lost = out / f"{row}.launch.json"
    if lost.exists():
        return [Outcome(**json.loads(lost.read_text()), results={})]
    outcomes = []
    for rank in range(mode.processes):
        status = json.loads((out / f"{row}.{rank}.json").read_text())
        with np.load(out / f"{row}.{rank}.npz", allow_pickle=False) as file:
            results = {key: file[key] for key in file.files}
        outcomes.append(Outcome(**status, results=results))
    return outcomes


def judge(row: Row, ranks: Sequence[Outcome], reference: Outcome) -> Verdict:
    """Compare all ranks bit by bit, then rank 0 with the one-process run."""
    for rank, outcome in enumerate(ranks):
        if outcome.status not in ("ok", "refused"):
            detail = f"rank {rank}: {outcome.error}"
            asserted = outcome.error.startswith("AssertionError")
            kind = "differs" if asserted else outcome.status
            return Verdict(kind, detail, float("nan"), allowed=False)
    if all(outcome.status == "refused" for outcome in ranks):
        return Verdict("refused", ranks[0].error, allowed=row.may_refuse)
    refused = [rank for rank, each in enumerate(ranks) if each.status == "refused"]
    if refused:
        detail = f"only ranks {refused} refused: {ranks[refused[0]].error}"
        return Verdict("error", detail, allowed=False)
    first = ranks[0].results
    for rank, outcome in enumerate(ranks[1:], start=1):
        for key in sorted(first.keys() | outcome.results.keys()):
            if not same_bits(first.get(key), outcome.results.get(key)):
                gap = difference(first.get(key), outcome.results.get(key))
                detail = f"ranks 0 and {rank} differ by {gap:.1e} in {key}"
                return Verdict("ranks differ", detail, gap, allowed=False)
    gap = float(first.get("replicas/gap", 0.0))
    if gap > 0.0:
        detail = f"the replicas of one process differ by {gap:.1e}"
        return Verdict("ranks differ", detail, gap, allowed=False)
    if not row.compared:
        return Verdict("equal")
    if reference.status != "ok":
        detail = f"the reference run failed: {reference.error}"
        return Verdict("error", detail, allowed=False)
    worst, where = largest_difference(first, reference.results)
    if worst > row.tolerance:
        detail = f"{worst:.1e} in {where}"
        return Verdict("differs", detail, worst, allowed=False)
    return Verdict("equal", f"{worst:.1e} in {where}", worst)


def largest_difference(
    results: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]
) -> tuple[float, str]:
    """Return the largest relative difference and the key that holds it."""
    return max(
        (difference(results.get(key), reference.get(key)), key)
        for key in sorted(results.keys() | reference.keys())
    )


def difference(value: np.ndarray | None, reference: np.ndarray | None) -> float:
    """Return max |value - reference| / max(1, |reference|); inf if incomparable."""
    if value is None or reference is None or value.shape != reference.shape:
        return float("inf")
    value, reference = np.asarray(value, "float64"), np.asarray(reference, "float64")
    # NaN equals NaN and inf equals inf: an overflow must look alike everywhere.
    alike = (value == reference) | (np.isnan(value) & np.isnan(reference))
    with np.errstate(invalid="ignore"):
        gap = np.abs(value - reference) / np.maximum(1.0, np.abs(reference))
    gap = np.where(alike, 0.0, np.where(np.isfinite(gap), gap, np.inf))
    return float(gap.max(initial=0.0))


def same_bits(left: np.ndarray | None, right: np.ndarray | None) -> bool:
    """Return whether two arrays are equal to the last bit."""
    if left is None or right is None:
        return False
    return left.shape == right.shape and left.tobytes() == right.tobytes()
