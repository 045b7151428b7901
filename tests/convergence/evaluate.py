"""Pure evaluation: accuracies, differences between pairs of runs, and intervals."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from scipy import stats

Record = Mapping[str, Any]  # a line that the worker wrote
MARGIN = 0.5  # percentage points of accuracy that are as good as none
CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A mean and what it may be."""

    mean: float
    low: float
    high: float

    @property
    def is_equal(self) -> bool:
        """Whether all of the interval is within the margin."""
        return -MARGIN <= self.low and self.high <= MARGIN

    @property
    def is_worse(self) -> bool:
        """Whether all of the interval is below the margin."""
        return self.high < -MARGIN


def accuracies(records: Sequence[Record], folds: int) -> dict[str, dict[int, float]]:
    """Return method -> seed -> per cent of all images, each recognised when left out.

    Seeds of which a fold is missing are left out.
    """
    found: dict[tuple[str, int], dict[int, Record]] = {}
    for record in records:
        of_seed = found.setdefault((record["method"], record["seed"]), {})
        of_seed[record["fold"]] = record
    result: dict[str, dict[int, float]] = {}
    for (method, seed), of_seed in found.items():
        if len(of_seed) == folds:
            correct = sum(record["correct"] for record in of_seed.values())
            images = sum(record["images"] for record in of_seed.values())
            result.setdefault(method, {})[seed] = 100.0 * correct / images
    return result


def difference(ours: Mapping[int, float], reference: Mapping[int, float]) -> Interval:
    """Return the mean difference over the seeds of both, and its interval.

    Runs with one seed share weights, folds and orders, so what a seed does to both
    cancels.

    Raises:
        ValueError: There are fewer than two seeds.

    Source: Student, The probable error of a mean, Biometrika 1908.
    """
    seeds = sorted(ours.keys() & reference.keys())
    if len(seeds) < 2:
        raise ValueError(f"an interval needs two seeds or more, not {seeds}")
    pairs = [ours[seed] - reference[seed] for seed in seeds]
    mean = statistics.fmean(pairs)
    error = statistics.stdev(pairs) / math.sqrt(len(pairs))
    reach = error * float(stats.t.ppf((1 + CONFIDENCE) / 2, len(pairs) - 1))
    return Interval(mean, mean - reach, mean + reach)
