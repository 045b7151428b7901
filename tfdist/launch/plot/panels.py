"""The panels of the page; each one says its finding in its title."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from tfdist.launch.plot.drawing import (
    COLOURS,
    LABELS,
    bars,
    dress,
    legend_below,
    lines,
    milliseconds,
    nothing,
    second_axis,
    shares,
    shortened,
)
from tfdist.launch.plot.runs import PARTS, Run

MOST_BARS = 16  # ranks
HEADROOM = 0.15  # of a panel's height, above what is constant
MOST_METRICS = 6
# What other callbacks of tfdist log, in units of their own.
NOT_METRICS = (
    "compression_ms",
    "compression_ratio",
    "gradient_noise_scale",
    "residual_norm",
    "skipped_steps",
)
STEP = "step"
SCALE_COLOUR, MEMORY_COLOUR = "#8a5a9e", "0.45"
MEGA = 1e6


def throughput(panel: Any, runs: Sequence[Run]) -> None:
    """Draws examples per second over the steps."""
    rate = runs[0].examples_per_second
    title = "Throughput"
    if len(runs) == 1 and not math.isnan(rate):
        title += f": {rate:,.0f} examples/s, all ranks together"
    dress(panel, title, STEP, "examples per second")
    if lines(panel, runs, lambda row: row.examples_per_second):
        panel.set_ylim(bottom=0)
    if len(runs) > 1:
        legend_below(panel)


def parts_over_steps(panel: Any, run: Run) -> None:
    """Draws where a step's time goes, over the steps of one run."""
    rows = run.parts
    # A row's figures hold from the row before on.
    edges = [max(rows[0].step - rows[0].steps, 0), *(row.step for row in rows)]
    if math.isnan(run.whole.parts[0]):
        stacked, names = [[row.step_ms for row in rows]], ["step"]
        title = f"A step takes {milliseconds(run.whole.step_ms)}; its parts: not known"
    else:
        stacked = [[getattr(row, part) for row in rows] for part in PARTS]
        names = list(LABELS)
        title = f"A step takes {milliseconds(run.whole.step_ms)}: {shares(run.whole)}"
    dress(panel, title, STEP, "ms per step, mean over ranks")
    bottom = [0.0] * len(edges)
    for values, colour, name in zip(stacked, COLOURS, names, strict=False):
        top = [a + b for a, b in zip(bottom, [values[0], *values], strict=True)]
        panel.fill_between(
            edges, bottom, top, step="pre", color=colour, label=name, linewidth=0
        )
        bottom = top
    panel.set_ylim(0, 1.05 * max(row.step_ms for row in rows))
    legend_below(panel)


def parts_of_runs(panel: Any, runs: Sequence[Run]) -> None:
    """Draws where a step's time goes, one bar for each run."""
    dress(panel, "Where a step's time goes, mean over ranks", "ms per step", "")
    bars(panel, [(run.name, run.whole) for run in runs])


def ranks(panel: Any, run: Run) -> None:
    """Draws where the time of each rank goes, the slowest first."""
    shown = sorted(run.ranks, key=lambda rank: -rank.own_ms)
    title = "One rank"
    if len(shown) > 1:
        middle = statistics.median(rank.own_ms for rank in shown)
        title = (
            f"Slowest: rank {run.slowest.number} on {shortened(run.slowest.host, 16)}, "
            f"{milliseconds(run.slowest.own_ms)} of its own (median "
            f"{milliseconds(middle)})"
        )
    if len(shown) > MOST_BARS:
        half = MOST_BARS // 2
        title += f"\nof {len(shown)} ranks: the {half} slowest, the {half} fastest"
        shown = [*shown[:half], *shown[-half:]]
    dress(panel, title, "ms per step", "")
    bars(panel, [(f"rank {rank.number} on {rank.host}", rank) for rank in shown])


def loss_over_time(panel: Any, runs: Sequence[Run]) -> None:
    """Draws the training loss over the wall time, to compare runs."""
    longest = max(run.parts[-1].time for run in runs)
    unit, name = (60.0, "minutes") if longest > 180 else (1.0, "seconds")
    dress(panel, "Loss over the time of training", f"{name} of training", "loss")
    for number, run in enumerate(runs):
        rows = [row for row in run.epochs if "loss" in row.metrics]
        panel.plot(
            [row.time / unit for row in rows],
            [row.metrics["loss"] for row in rows],
            ".-",
            color=f"C{number}",
            label=run.name,
        )
    if not any("loss" in run.metrics for run in runs):
        nothing(panel, "no epoch has ended yet")
    legend_below(panel)


def metrics(panel: Any, runs: Sequence[Run]) -> None:
    """Draws losses on the left, other metrics on the right; dashed: validation."""
    names = list(dict.fromkeys(name for run in runs for name in run.metrics))
    losses = [name for name in names if name.endswith("loss")]
    others = [name for name in names if name not in {*losses, *NOT_METRICS}]
    dress(panel, "Loss and metrics at the end of epochs", STEP, "loss")
    axes = {name: panel for name in losses}
    if others:
        right = second_axis(panel, "other metrics", "0.25")
        axes |= {name: right for name in others[:MOST_METRICS]}
    if not names:
        nothing(panel, "no epoch has ended yet")
    bases = list(dict.fromkeys(name.removeprefix("val_") for name in axes))
    drawn = []
    for number, run in enumerate(runs):
        for name, axis in axes.items():
            base = name.removeprefix("val_")
            rows = [row for row in run.epochs if name in row.metrics]
            drawn += axis.plot(
                [row.step for row in rows],
                [row.metrics[name] for row in rows],
                "--" if name != base else "-",
                marker="." if base in losses else "x",
                ms=4,
                color=f"C{bases.index(base) if len(runs) == 1 else number}",
                label=name if len(runs) == 1 else f"{run.name}: {name}",
            )
    if drawn:
        panel.legend(
            handles=drawn if len(runs) == 1 else drawn[: len(axes) * 4],
            loc="upper center",
            bbox_to_anchor=(0.5, -0.16),
            ncols=4 if len(runs) == 1 else 2,
            fontsize=9 if len(drawn) <= 8 else 7,
            frameon=False,
        )


def rates(panel: Any, runs: Sequence[Run]) -> None:
    """Draws the learning rate, and on the right the scale of the loss."""
    scaled = any(not math.isnan(row.loss_scale) for run in runs for row in run.parts)
    title = "Learning rate" + (" and loss scale (dashed)" if scaled else "")
    dress(panel, title, STEP, "learning rate")
    panel.margins(y=HEADROOM)
    if lines(panel, runs, lambda row: row.learning_rate):
        panel.set_ylim(bottom=0)
    if scaled:
        axis = second_axis(panel, "loss scale", SCALE_COLOUR)
        one = {"color": SCALE_COLOUR} if len(runs) == 1 else {}
        lines(
            axis,
            runs,
            lambda row: row.loss_scale,
            linestyle="--",
            drawstyle="steps",
            **one,
        )
        axis.set_yscale("log", base=2)
    if len(runs) > 1:
        legend_below(panel)


def bytes_and_memory(panel: Any, runs: Sequence[Run]) -> None:
    """Draws what gradients bring to each rank, and on the right the memory."""
    sent = sum(row.bytes_per_step * row.steps for row in runs[0].parts)
    title = "Gradients to each rank, and memory (dashed)"
    if len(runs) == 1 and sent > 0:
        title = f"Gradients: {_size(sent)} to each rank in all; memory (dashed)"
    most = max(row.bytes_per_step for run in runs for row in run.parts)
    if most:
        lines(panel, runs, lambda row: row.bytes_per_step / MEGA)
        panel.set_ylim(0, 1.2 * most / MEGA)
    else:
        title = "Memory (dashed); no gradients travel"
        panel.set_yticks([])
    dress(panel, title, STEP, "MB per step" if most else "")
    axis = second_axis(panel, "MB in the largest process", MEMORY_COLOUR)
    one = {"color": MEMORY_COLOUR} if len(runs) == 1 else {}
    axis.margins(y=HEADROOM)
    lines(axis, runs, lambda row: row.memory_mb, linestyle="--", **one)
    axis.set_ylim(bottom=0)
    if len(runs) > 1:
        legend_below(panel)


def _size(count: float) -> str:
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count / 1e3:.3g} kB"
