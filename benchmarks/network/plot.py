"""Step time over bandwidth, a panel for each model and a line for each method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.network import formulas
from benchmarks.network.links import UNLIMITED
from benchmarks.network.methods import METHODS
from benchmarks.network.results import Results

PANEL = (5.2, 5.0)  # inches
# One family a colour map: tfdist in full lines, peers dashed.
MARKERS = "osD^v<>PXph*d8H"


def draw(results: Results, file: Path) -> None:
    """Writes the picture."""
    from matplotlib.figure import Figure

    names = results.models()
    figure = Figure(
        figsize=(PANEL[0] * len(names) + 2.6, PANEL[1]), layout="constrained"
    )
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for panel, model in zip(panels, names, strict=True):
        _panel(panel, results, model)
    panels[0].set_ylabel("step [ms]")
    figure.suptitle(f"{results.hosts} hosts, one thread a rank", fontsize=11)
    handles: dict[str, Any] = {}
    for panel in panels:
        found, labels = panel.get_legend_handles_labels()
        handles |= dict(zip(labels, found, strict=True))
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside right center",
        frameon=False,
        fontsize=9,
    )
    figure.savefig(file, dpi=130)


def _panel(panel: Any, results: Results, model: str) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    rates = results.rates()
    places = {rate: results.bandwidth(rate) for rate in rates}
    for number, (name, method) in enumerate(METHODS.items()):
        rows = [results.find(model, name, rate) for rate in rates]
        found = [row for row in rows if row is not None]
        if not found:
            continue
        dense = name == "tfdist"
        panel.plot(
            [places[row.rate] for row in found],
            [1e3 * row.step for row in found],
            color="black" if dense else f"C{number % 10}",
            linestyle="--" if method.peer else "-",
            marker=MARKERS[number % len(MARKERS)],
            markersize=5,
            linewidth=2.4 if dense else 1.5,
            label=method.what,
        )
    shapes = results.shapes.get(model)
    if shapes:
        sent = formulas.dense_bytes(shapes, results.hosts)
        panel.plot(
            list(places.values()),
            [1e3 * formulas.wire_seconds(sent, place) for place in places.values()],
            color="0.6",
            linestyle=":",
            label="the wire's limit for float32",
        )
    one = results.one_process(model)
    if one is not None:
        panel.axhline(1e3 * one, color="0.6", linestyle="-.", label="one process")
    panel.set_title(model, fontsize=10)
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_xlabel("bandwidth of a link, each way")
    ticks = [(place, rate) for rate, place in places.items()]
    panel.xaxis.set_major_locator(FixedLocator([place for place, _ in ticks]))
    panel.set_xticklabels([_tick(rate, results) for _, rate in ticks], fontsize=8)
    panel.xaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.grid(color="0.9", which="both")
    panel.set_axisbelow(True)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)


def _tick(rate: str, results: Results) -> str:
    if rate != UNLIMITED:
        return f"{rate}/s"
    return f"{rate}\n({results.raw[rate] / 1e9:.1f} Gbit/s)"
