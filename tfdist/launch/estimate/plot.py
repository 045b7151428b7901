"""Draws the scaling efficiency over the number of ranks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tfdist.launch.errors import CommandError
from tfdist.launch.estimate.compressions import NONE, Compression, parse_compression
from tfdist.launch.estimate.cost import Link, efficiency
from tfdist.launch.estimate.report import Question, title

# All candidates would cover each other; these four are of different kinds.
DEFAULT_LINES = ("bf16", "powersgd", "topk")
PANEL = (4.6, 3.6)  # inches
SUFFIXES = (".png", ".pdf", ".svg")


def check_plot(file: Path, step: float | None) -> None:
    """Makes sure that a plot can be drawn, before anything is measured.

    Raises:
        CommandError: If matplotlib, the step's duration or the folder is missing.
    """
    if step is None:
        raise CommandError(
            "--plot draws the efficiency, which depends on the step's duration.",
            hint="--step-ms 120",
        )
    if file.suffix not in SUFFIXES:
        raise CommandError(
            f"--plot: cannot write {file.name!r}; known: {', '.join(SUFFIXES)}.",
            hint=f"--plot {file.stem}.png",
        )
    if not file.absolute().parent.is_dir():
        raise CommandError(
            f"--plot: there is no folder {file.absolute().parent}.",
            hint=f"mkdir -p {file.absolute().parent}",
        )
    try:
        import matplotlib as matplotlib
    except ImportError as error:
        raise CommandError(
            "--plot needs matplotlib, which is not installed.",
            hint=f"{sys.executable} -m pip install 'tfdist[plot]'",
        ) from error


def draw(question: Question, file: Path, *, chosen: bool) -> None:
    """Writes one panel per link, one line per compression.

    Args:
        question: What to draw; its step is known.
        file: Where to write; the suffix decides the format.
        chosen: Whether the user named the candidates; else a few are drawn.
    """
    from matplotlib.figure import Figure

    compressions = (
        question.candidates if chosen else tuple(map(parse_compression, DEFAULT_LINES))
    )
    compressions = (NONE, *(each for each in compressions if each != NONE))
    count = len(question.links)
    figure = Figure(figsize=(PANEL[0] * count + 1.2, PANEL[1]), layout="constrained")
    panels = figure.subplots(1, count, sharey=True, squeeze=False)[0]
    for panel, link in zip(panels, question.links, strict=True):
        for number, compression in enumerate(compressions):
            _draw_line(panel, question, link, compression, number)
        _dress(panel, question, title(link).replace(", ", "\n", 1))
    panels[0].set_ylabel("scaling efficiency")
    millions = question.gradients.parameters / 1e6
    step = (question.step or 0.0) * 1e3
    figure.suptitle(
        f"{millions:,.4g}M parameters in {question.gradients.dtype}, "
        f"{step:.4g} ms of computing a step "
        "(predicted; compressing itself not counted)",
        fontsize=11,
    )
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    figure.savefig(file, dpi=150)


def _draw_line(
    panel: Any, question: Question, link: Link, compression: Compression, number: int
) -> None:
    most = max(question.ranks)
    doubling = {2**power for power in range(most.bit_length())}
    ranks = sorted({1, *doubling, *question.ranks})
    values = {
        each: efficiency(
            question.step or 0.0, compression.seconds(question.gradients, each, link)
        )
        for each in ranks
    }
    dense = compression == NONE
    (line,) = panel.plot(
        ranks,
        [values[each] for each in ranks],
        color="black" if dense else f"C{(number - 1) % 10}",
        linewidth=2.2 if dense else 1.6,
        label="no compression" if dense else compression.label,
    )
    asked = sorted(set(question.ranks))
    panel.plot(
        asked, [values[each] for each in asked], "o", color=line.get_color(), ms=4
    )


def _dress(panel: Any, question: Question, heading: str) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    panel.set_title(heading, fontsize=10)
    panel.set_xscale("log", base=2)
    panel.set_xlabel("ranks")
    asked = sorted({1, *question.ranks})
    panel.xaxis.set_major_locator(FixedLocator(asked))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    panel.set_ylim(0.0, 1.03)
    panel.grid(color="0.9")
    panel.set_axisbelow(True)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
