"""Draws a learning-rate range test."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tfdist.errors import explain

if TYPE_CHECKING:
    from tfdist.tools.range_test import RangeTest


def check_file(file: str | Path) -> None:
    """Makes sure that a plot can be drawn, before anything is trained.

    Raises:
        ValueError: It is not a PNG in a folder that exists.
        ImportError: matplotlib is missing.
    """
    path = Path(file) if isinstance(file, str | os.PathLike) else Path()
    if path.suffix != ".png" or not path.absolute().parent.is_dir():
        raise ValueError(
            explain(
                "The plot cannot be written",
                received=f"plot={file if path == Path() else str(file)!r}",
                expected="a file that ends in .png, in a folder that exists",
                hint='plot="rates.png"',
            )
        )
    try:
        import matplotlib as matplotlib
    except ImportError as error:
        raise ImportError(
            "A plot needs matplotlib, which is not installed.\n"
            f"HINT: {sys.executable} -m pip install 'tfdist[plot]'"
        ) from error


def draw(found: RangeTest, file: Path) -> None:
    """Writes the losses over the rates."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    panel = figure.subplots()
    panel.plot(found.rates, found.losses, color="0.7", label="each batch")
    panel.plot(found.rates, found.smoothed, color="C0", label="moving average")
    if found.suggestion is not None:
        panel.axvline(
            found.suggestion,
            color="C3",
            linestyle="--",
            label=f"falls fastest: {found.suggestion:.2g}",
        )
    panel.set_xscale("log")
    panel.set_xlabel("learning rate")
    panel.set_ylabel("loss after a step with this rate")
    first, lowest = found.smoothed[0], min(*found.smoothed, *found.losses)
    fallen = first - lowest
    if fallen > 0:  # what diverges would hide the rest
        panel.set_ylim(lowest - fallen / 10, first + fallen / 2)
    panel.set_title("Learning-rate range test")
    panel.legend()
    figure.savefig(file, dpi=150)
