"""The tables of what was measured, and whether it is what theory promises."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from tests.convergence.evaluate import (
    Interval,
    Record,
    accuracies,
    difference,
)
from tests.convergence.experiment import Experiment
from tests.convergence.methods import WITHOUT
from tests.pages import line

NOTHING = "–"
Accuracies = Mapping[str, Mapping[int, float]]


class Measured(NamedTuple):
    """What is known of an experiment's methods, by their names."""

    experiment: Experiment
    records: Mapping[str, Sequence[Record]]
    accuracies: Accuracies
    differences: Mapping[str, Interval]

    def accuracy(self, name: str) -> str:
        """Return a method's mean accuracy."""
        found = self.accuracies.get(name)
        return f"{statistics.fmean(found.values()):.2f}" if found else NOTHING

    def difference(self, name: str) -> str:
        """Return a method's difference to the reference, with its interval."""
        if name not in self.differences:
            return NOTHING
        mean, low, high = self.differences[name]
        return f"{mean:+.2f} ({low:+.2f} to {high:+.2f})"

    def step_seconds(self, name: str) -> float:
        """Return the time of a step in the fastest training: others were disturbed."""
        return min(each["seconds"] / each["steps"] for each in self.records[name])


Column = tuple[str, Callable[[Measured, str], str]]


def _bytes(measured: Measured, name: str) -> str:
    return f"{measured.records[name][0]['bytes']:,.0f}"


def _ratio(measured: Measured, name: str) -> str:
    record = measured.records[name][0]
    return f"{record['bytes_uncompressed'] / record['bytes']:.1f}"


def _time_ratio(measured: Measured, name: str) -> str:
    reference = measured.step_seconds(measured.experiment.reference)
    return f"{measured.step_seconds(name) / reference:.2f}"


def _steps(measured: Measured, name: str) -> str:
    return f"{measured.records[name][0]['steps']}"


def _skipped(measured: Measured, name: str) -> str:
    mean = statistics.fmean(record["skipped"] for record in measured.records[name])
    return f"{mean:.1f} of {_steps(measured, name)}"


ALL = (
    ("accuracy %", Measured.accuracy),
    ("difference, 95 % interval", Measured.difference),
)
COLUMNS: dict[str, Sequence[Column]] = {
    "compression": (
        ("bytes a step", _bytes),
        ("ratio", _ratio),
        (
            "without error feedback: accuracy %",
            lambda measured, name: measured.accuracy(name + WITHOUT),
        ),
        (
            "difference, 95 % interval",
            lambda measured, name: measured.difference(name + WITHOUT),
        ),
    ),
    "precision": (("time of a step", _time_ratio), ("skipped steps", _skipped)),
    "base_rate": (),
    "large_batch": (("steps", _steps), ("time of a step", _time_ratio)),
}


def differences(experiment: Experiment, found: Accuracies) -> dict[str, Interval]:
    """Return the difference of every method to the reference."""
    return {
        name: difference(of_method, found[experiment.reference])
        for name, of_method in found.items()
        if name != experiment.reference
    }


def broken(
    experiment: Experiment, measured: Mapping[str, Interval]
) -> dict[str, Interval]:
    """Return the methods that do better or worse than theory says."""
    wrong = {}
    for name, interval in measured.items():
        worse = experiment.methods[name].worse
        as_expected = interval.is_worse if worse else interval.is_equal
        if worse is not None and not as_expected:
            wrong[name] = interval
    return wrong


def markdown(experiment: Experiment, records: Sequence[Record]) -> str:
    """Return the table, a line for each method that was measured."""
    found = accuracies(records, experiment.settings.folds)
    by_method: dict[str, list[Record]] = {}
    for record in records:
        by_method.setdefault(record["method"], []).append(record)
    measured = Measured(experiment, by_method, found, differences(experiment, found))
    seeds = {len(of_method) for of_method in found.values()}
    columns = (*ALL, *COLUMNS[experiment.name])
    lines = [
        f"Means over {' to '.join(map(str, sorted(seeds)))} seeds.",
        "",
        line(["method", *(heading for heading, _ in columns)]),
        "|---" * (1 + len(columns)) + "|",
    ]
    for name, method in experiment.methods.items():
        if name in found and not name.endswith(WITHOUT):
            cells = [cell(measured, name) for _, cell in columns]
            lines.append(line([method.title, *cells]))
    return "\n".join([*lines, ""])
