"""The table of what was measured, and whether it is what theory promises."""

import statistics
from collections.abc import Mapping, Sequence

from tests.convergence.evaluate import (
    Interval,
    Record,
    accuracies,
    difference,
)
from tests.convergence.experiment import METHODS, UNCOMPRESSED, WITHOUT
from tests.pages import line

HEADINGS = (
    "method",
    "accuracy %",
    "difference, 95 % interval",
    "bytes a step",
    "ratio",
    "without error feedback: accuracy %",
    "difference, 95 % interval",
)
NOTHING = "–"
Accuracies = Mapping[str, Mapping[int, float]]


def differences(found: Accuracies) -> dict[str, Interval]:
    """Return the difference of every method to uncompressed training."""
    return {
        name: difference(of_method, found[UNCOMPRESSED])
        for name, of_method in found.items()
        if name != UNCOMPRESSED
    }


def broken(measured: Mapping[str, Interval]) -> dict[str, Interval]:
    """Return the methods that do better or worse than theory says."""
    return {
        name: interval
        for name, interval in measured.items()
        if not (interval.is_worse if METHODS[name].worse else interval.is_equal)
        and not _is_undecided(name)
    }


def _is_undecided(name: str) -> bool:
    """Whether theory says nothing: unfed errors that may be too small to matter."""
    return name.endswith(WITHOUT) and not METHODS[name].worse


def markdown(records: Sequence[Record], folds: int) -> str:
    """Return the table, a line for each method that was measured."""
    found = accuracies(records, folds)
    measured = differences(found)
    example = {record["method"]: record for record in records}
    seeds = {len(of_method) for of_method in found.values()}
    lines = [
        f"Means over {' to '.join(map(str, sorted(seeds)))} seeds.",
        "",
        line(HEADINGS),
        "|---" * len(HEADINGS) + "|",
    ]
    for name, method in METHODS.items():
        if name not in found or name.endswith(WITHOUT):
            continue
        sent, plain = (example[name][key] for key in ("bytes", "bytes_uncompressed"))
        cells = [method.title, *_result(name, found, measured)]
        cells += [f"{sent:,.0f}", f"{plain / sent:.1f}"]
        cells += _result(name + WITHOUT, found, measured)
        lines.append(line(cells))
    return "\n".join([*lines, ""])


def _result(
    name: str, found: Accuracies, measured: Mapping[str, Interval]
) -> tuple[str, str]:
    if name not in found:
        return NOTHING, NOTHING
    accuracy = f"{statistics.fmean(found[name].values()):.2f}"
    if name not in measured:
        return accuracy, NOTHING
    mean, low, high = measured[name]
    return accuracy, f"{mean:+.2f} ({low:+.2f} to {high:+.2f})"
