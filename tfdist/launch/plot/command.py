"""The arguments of `tfdist plot`, and what is done with them."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tfdist.launch.errors import CommandError
from tfdist.launch.plot import page
from tfdist.launch.plot.runs import Run, load, named

if TYPE_CHECKING:
    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]

DESCRIPTION = """\
Draws one page of what a Telemetry callback has measured: throughput, where the time
of a step goes, which rank is the slowest, loss and metrics, learning rate and loss
scale, bytes and memory. Several folders are drawn into one page, to be compared.
"""
EPILOG = """\
example: tfdist plot runs/first
         tfdist plot runs/plain runs/compressed --out compared.png
"""
SUFFIXES = (".png", ".pdf", ".svg")
MOST = 8  # runs: more colours cannot be told apart


def add_parser(verbs: Verbs) -> None:
    """Adds this verb to the command line."""
    parser = verbs.add_parser(
        "plot",
        help="draw what Telemetry has measured on one page",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "folders",
        nargs="+",
        type=Path,
        metavar="DIR",
        help="a log_dir of tfdist.callbacks.Telemetry",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help=f"where to write: {', '.join(SUFFIXES)} (default: DIR/telemetry.png)",
    )
    parser.set_defaults(function=plot)


def plot(arguments: argparse.Namespace) -> int:
    """Draws the page; returns 0.

    Raises:
        CommandError: There is nothing to draw, no way to draw it, or no place for it.
    """
    file = arguments.out or arguments.folders[0] / "telemetry.png"
    runs = _checked(arguments.folders, file)
    try:
        page.draw(runs, file)
    except OSError as error:
        raise CommandError(
            f"{file} cannot be written: {error}.", hint="--out page.png"
        ) from error
    print(f"plot: {file}")
    return 0


def _checked(folders: list[Path], file: Path) -> list[Run]:
    if importlib.util.find_spec("matplotlib") is None:
        raise CommandError(
            "a plot needs matplotlib, which is not installed.",
            hint=f"{sys.executable} -m pip install 'tfdist[plot]'",
        )
    if len(folders) > MOST:
        raise CommandError(
            f"{len(folders)} folders; at most {MOST} can be told apart.",
            hint="name fewer",
        )
    runs = [
        load(folder, name) for folder, name in zip(folders, named(folders), strict=True)
    ]
    if file.suffix not in SUFFIXES:
        raise CommandError(
            f"--out: cannot write {file.name!r}; known: {', '.join(SUFFIXES)}.",
            hint=f"--out {file.stem}.png",
        )
    if not file.absolute().parent.is_dir():
        raise CommandError(
            f"--out: there is no folder {file.absolute().parent}.",
            hint=f"mkdir -p {file.absolute().parent}",
        )
    return runs
