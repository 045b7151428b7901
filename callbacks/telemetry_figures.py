"""What is measured of some steps on all ranks, and the figures that follow from it."""

from __future__ import annotations

import math
import resource
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfdist.telemetry.table import Row

MEGA = 1e6


class Measured(NamedTuple):
    """What one process measures of some steps; NaN where it is not known."""

    steps: float
    examples: float
    seconds: float  # wall time of these steps and what was between them
    input_seconds: float
    communication_seconds: float
    memory: float  # bytes, the largest so far
    device_memory: float  # bytes, the largest so far


_SUMS = 5  # the first fields add up; the others' largest counts


class Figures(NamedTuple):
    """Figures of a rank, or of all ranks; see `tfdist.telemetry.table.Row`."""

    examples_per_second: float
    step_ms: float
    compute_ms: float
    input_ms: float
    communication_ms: float
    memory_mb: float
    device_memory_mb: float


_SETTINGS = ("bytes_per_step", "learning_rate", "loss_scale")


def together(first: np.ndarray, then: np.ndarray) -> np.ndarray:
    """Returns what was measured in two parts of the training, one after the other.

    Args:
        first: [ranks, fields of `Measured`].
        then: Likewise.
    """
    return np.concatenate(
        [
            first[:, :_SUMS] + then[:, :_SUMS],
            np.fmax(first[:, _SUMS:], then[:, _SUMS:]),
        ],
        axis=1,
    )


def nothing(ranks: int) -> np.ndarray:
    """Returns what was measured before the first step."""
    measured = np.zeros((ranks, len(Measured._fields)))
    measured[:, _SUMS:] = np.nan
    return measured


def of_ranks(measured: np.ndarray) -> list[Figures]:
    """Returns the figures of each rank."""
    return [_figures(Measured(*row)) for row in measured]


def of_all(measured: np.ndarray) -> Figures:
    """Returns the figures of all ranks together."""
    ranks = np.array(of_ranks(measured))
    rate, *milliseconds = ranks[:, :_SUMS].T
    return Figures(
        float(rate.sum()),
        *(float(each.mean()) for each in milliseconds),
        *(float(each.max()) for each in ranks[:, _SUMS:].T),
    )


def slowest(measured: np.ndarray) -> int:
    """Returns the rank that the others wait for.

    All ranks end a step together, so the one that waits least for others is it: the
    one whose own time, computing and waiting for input, is the longest.
    """
    own = [_own_ms(figures) for figures in of_ranks(measured)]
    return int(np.argmax(own))


def for_logs(measured: np.ndarray) -> dict[str, float]:
    """Returns what an epoch's logs tell; equal on all ranks."""
    every = of_all(measured)._asdict() | {"slowest_rank": slowest(measured)}
    names = (
        "examples_per_second",
        "step_ms",
        "input_ms",
        "communication_ms",
        "slowest_rank",
        "memory_mb",
        "device_memory_mb",
    )
    return {name: every[name] for name in names if not math.isnan(every[name])}


def rows(
    measured: np.ndarray,
    hosts: Sequence[str],
    known: Mapping[str, float],
    **place: Any,
) -> list[Row]:
    """Returns the table's rows: one for all ranks, and one for each.

    Args:
        measured: [ranks, fields of `Measured`].
        hosts: The ranks' hosts.
        known: What is known beside: settings, and in an epoch's logs the metrics.
        **place: The fields that say what the rows are about.
    """
    rank = slowest(measured)
    settings = {name: known.get(name, float("nan")) for name in _SETTINGS}
    taken = {*_SETTINGS, *Figures._fields, "slowest_rank"}
    metrics = {name: value for name, value in known.items() if name not in taken}
    common = place | settings | {"slowest_rank": rank}
    whole = Row(
        rank=None,
        host=hosts[rank],
        steps=int(measured[0, 0]),
        metrics=metrics,
        **common,
        **of_all(measured)._asdict(),
    )
    return [
        whole,
        *(
            Row(
                rank=number,
                host=hosts[number],
                steps=int(measured[number, 0]),
                metrics={},
                **common,
                **figures._asdict(),
            )
            for number, figures in enumerate(of_ranks(measured))
        ),
    ]


def advice(measured: np.ndarray, hosts: Sequence[str]) -> str:
    """Words where the time of a training went.

    Args:
        measured: [ranks, fields of `Measured`].
        hosts: The ranks' hosts.
    """
    figures, ranks = of_all(measured), of_ranks(measured)
    if math.isnan(figures.input_ms):
        return f"Telemetry: a step took {figures.step_ms:.3g} ms."
    parts = {
        "computing": figures.compute_ms,
        "waiting for input": figures.input_ms,
        "waiting for other ranks": figures.communication_ms,
    }
    shares = ", ".join(
        f"{value / figures.step_ms:.0%} {name}" for name, value in parts.items()
    )
    text = (
        f"Telemetry: {figures.examples_per_second:,.0f} examples/s. A step took "
        f"{figures.step_ms:.3g} ms: {shares}."
    )
    if len(ranks) > 1:
        rank = slowest(measured)
        own = [_own_ms(each) for each in ranks]
        text += (
            f" Slowest: rank {rank} on {hosts[rank]}, {own[rank]:.3g} ms of its own "
            f"in a step (median of all ranks: {np.median(own):.3g} ms)."
        )
    return text


def memory() -> tuple[float, float]:
    """Returns the largest memory so far, of this process and of its first GPU.

    Bytes; NaN where there is no GPU.
    """
    unit = 1 if sys.platform == "darwin" else 1024
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    gpus = tf.config.list_logical_devices("GPU")
    if not gpus:
        return float(resident), float("nan")
    device: Any = tf.config.experimental.get_memory_info(gpus[0].name)
    return float(resident), float(device["peak"])


def _figures(measured: Measured) -> Figures:
    if not measured.steps:
        return Figures(*[float("nan")] * len(Figures._fields))
    step, asleep, waited = (
        1000 * seconds / measured.steps
        for seconds in (
            measured.seconds,
            measured.input_seconds,
            measured.communication_seconds,
        )
    )
    return Figures(
        measured.examples / measured.seconds,
        step,
        step - asleep - waited,
        asleep,
        waited,
        measured.memory / MEGA,
        measured.device_memory / MEGA,
    )


def _own_ms(figures: Figures) -> float:
    waited = figures.communication_ms
    return figures.step_ms - (0.0 if math.isnan(waited) else waited)
