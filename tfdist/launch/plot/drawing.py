"""What the panels of the page have in common."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tfdist.launch.plot.runs import Rank, Run
from tfdist.telemetry.table import Row

# Of a step: computing, input, other ranks.
COLOURS = ("#4c78a8", "#f2a541", "#c44e52")
LABELS = ("computing", "waiting for input", "waiting for other ranks")
SHORT = ("computing", "input", "other ranks")
LONGEST = 28  # characters of a name at a bar


def dress(panel: Any, title: str, below: str, beside: str) -> None:
    """Gives a panel its title and the names of its axes."""
    from matplotlib.ticker import EngFormatter

    panel.set_title(title, loc="left", fontsize=10.5)
    panel.set_xlabel(below)
    panel.set_ylabel(beside)
    if below == "step":
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
    panel.grid(color="0.92")
    panel.set_axisbelow(True)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)


def second_axis(panel: Any, name: str, colour: str) -> Any:
    """Returns an axis on the right, with a unit of its own."""
    axis = panel.twinx()
    axis.set_ylabel(name, color=colour)
    axis.tick_params(axis="y", colors=colour)
    for side in ("top", "left"):
        axis.spines[side].set_visible(False)
    return axis


def lines(
    panel: Any,
    runs: Sequence[Run],
    value: Callable[[Row], float],
    **style: Any,
) -> bool:
    """Draws a figure of all ranks over the steps, a line for each run.

    Returns:
        Whether anything was known.
    """
    known = False
    for number, run in enumerate(runs):
        rows = [row for row in run.parts if not math.isnan(value(row))]
        known = known or bool(rows)
        # One row alone would not show as a line.
        options = {"color": f"C{number}", "marker": "." if len(rows) < 40 else ""}
        label = run.name if len(runs) > 1 else None
        panel.plot(
            [row.step for row in rows],
            [value(row) for row in rows],
            **{**options, "label": label, **style},
        )
    if not known:
        nothing(panel, "not known")
    return known


def bars(panel: Any, named: Sequence[tuple[str, Rank]]) -> None:
    """Draws where time goes, one bar below the other."""
    places = range(len(named))
    if any(math.isnan(each.parts[0]) for _, each in named):
        panel.barh(places, [each.step_ms for _, each in named], color="0.6", height=0.7)
    else:
        starts = [0.0] * len(named)
        for index, (label, colour) in enumerate(zip(LABELS, COLOURS, strict=True)):
            widths = [each.parts[index] for _, each in named]
            panel.barh(places, widths, 0.7, starts, color=colour, label=label)
            starts = [sum(each) for each in zip(starts, widths, strict=True)]
        legend_below(panel)
    panel.set_yticks(places, [shortened(name) for name, _ in named])
    panel.set_ylim(max(len(named), 4) - 0.4, -0.6)
    panel.set_xlim(0, 1.02 * max(each.step_ms for _, each in named))


def legend_below(panel: Any, columns: int = 3) -> None:
    """Names what is drawn, below the panel."""
    panel.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.16),
        ncols=columns,
        fontsize=9,
        frameon=False,
    )


def nothing(panel: Any, why: str) -> None:
    """Says why a panel is empty."""
    panel.text(0.5, 0.5, why, transform=panel.transAxes, ha="center", color="0.5")
    panel.set_yticks([])
    panel.set_xticks([])


def shortened(name: str, most: int = LONGEST) -> str:
    """Returns a name of so many characters at most."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def shares(rank: Rank) -> str:
    """Words the shares of a step."""
    return ", ".join(
        f"{part / rank.step_ms:.0%} {name}"
        for part, name in zip(rank.parts, SHORT, strict=True)
    )


def milliseconds(value: float) -> str:
    """Words a duration, given in ms."""
    return f"{value:.0f} ms" if value >= 100 else f"{value:.2g} ms"


def duration(seconds: float) -> str:
    """Words a duration in its best unit."""
    for unit, name in ((3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.1f} s"
