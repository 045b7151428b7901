"""The page: its panels, and what stands above them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tfdist.launch.plot import panels
from tfdist.launch.plot.drawing import duration
from tfdist.launch.plot.runs import Run

SIZE = (13.0, 11.0)  # inches


def draw(runs: Sequence[Run], file: Path) -> None:
    """Writes the page; the file's suffix decides the format."""
    page(runs).savefig(file, dpi=120)


def page(runs: Sequence[Run]) -> Any:
    """Returns the page as a figure of matplotlib.

    Args:
        runs: One, or several to be compared.
    """
    from matplotlib import rc_context

    # Names of hosts, folders and metrics are no formulas, whatever stands in them.
    with rc_context({"text.parse_math": False}):
        return _page(runs)


def _page(runs: Sequence[Run]) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.12)  # inches
    figure = Figure(figsize=SIZE, layout=layout)
    grid = figure.subplots(3, 2)
    panels.throughput(grid[0, 0], runs)
    if len(runs) == 1:
        panels.parts_over_steps(grid[0, 1], runs[0])
        panels.ranks(grid[1, 0], runs[0])
    else:
        panels.parts_of_runs(grid[0, 1], runs)
        panels.loss_over_time(grid[1, 0], runs)
    panels.metrics(grid[1, 1], runs)
    panels.rates(grid[2, 0], runs)
    panels.bytes_and_memory(grid[2, 1], runs)
    last = max(run.parts[-1].step for run in runs)
    for panel in grid.flat:
        if panel.get_xlabel() == panels.STEP:
            panel.set_xlim(0, 1.02 * last)
    figure.suptitle("\n".join(map(headline, runs)), fontsize=13, fontweight="bold")
    return figure


def headline(run: Run) -> str:
    """Returns one line about a run."""
    last = run.parts[-1]
    hosts = len({rank.host for rank in run.ranks})
    ranks = f"{len(run.ranks)} ranks" if len(run.ranks) > 1 else "1 rank"
    return (
        f"{run.name}: {ranks} on {hosts} host{'s' * (hosts > 1)}, "
        f"{last.step:,} steps in {duration(last.time)}"
    )
