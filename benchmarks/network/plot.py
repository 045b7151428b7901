"""Step time over bandwidth, a panel for each model and a line for each method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.network import formulas
from benchmarks.network.links import UNLIMITED, Rate
from benchmarks.network.methods import METHODS
from benchmarks.network.results import Results

PANEL, LEGEND = (5.2, 5.0), 3.0  # inches
BEYOND = 5.0  # how far right of the fastest limit stands no limit
# One for each method, in the order of the registry; peers are dashed, too.
MARKERS = "osD^v<>PXph*d8Hx"
COLOURS = (
    *(f"C{number}" for number in range(8)),
    *("gold", "olive", "goldenrod", "teal", "navy", "royalblue", "deepskyblue"),
    "darkred",
)


def draw(results: Results, file: Path) -> None:
    """Writes the picture."""
    from matplotlib.figure import Figure

    names = results.models()
    figure = Figure(
        figsize=(PANEL[0] * len(names) + LEGEND, PANEL[1]), layout="constrained"
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
    places = _places(results)
    for number, (name, method) in enumerate(METHODS.items()):
        rows = [results.find(model, name, rate) for rate in places]
        found = [row for row in rows if row is not None]
        dense = name == "tfdist"
        if found:
            panel.plot(
                [places[row.rate] for row in found],
                [1e3 * row.step for row in found],
                color="black" if dense else COLOURS[number],
                linestyle="--" if method.peer else "-",
                marker=MARKERS[number],
                markersize=5,
                linewidth=2.4 if dense else 1.5,
                label=method.what,
            )
    sent = formulas.dense_bytes(results.shapes[model], results.hosts)
    panel.plot(
        list(places.values()),
        [1e3 * formulas.wire_seconds(sent, results.bandwidth(rate)) for rate in places],
        color="0.6",
        linestyle=":",
        label="the wire alone, float32",
    )
    one = results.one_process(model)
    if one is not None:
        panel.axhline(1e3 * one, color="0.6", linestyle="-.", label="one process")
    panel.set_title(model, fontsize=10)
    _dress(panel, results, places)
    # Where the wire takes next to nothing is of no interest.
    panel.set_ylim(
        bottom=600 * min(row.step for row in results.rows if row.model == model)
    )


def _places(results: Results) -> dict[str, float]:
    """Returns where each rate stands: without a limit stands right of all limits."""
    rates = results.rates()
    limits = [bits for rate in rates if (bits := Rate(rate).bits) is not None]
    beyond = BEYOND * max(limits, default=1e9)
    return {rate: Rate(rate).bits or beyond for rate in rates}


def _dress(panel: Any, results: Results, places: dict[str, float]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_xlabel("bandwidth of a link, each way")
    panel.xaxis.set_major_locator(FixedLocator(list(places.values())))
    panel.set_xticklabels([_tick(rate, results) for rate in places], fontsize=8)
    panel.xaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5), numticks=20))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.yaxis.set_minor_locator(NullLocator())
    panel.grid(color="0.9")
    panel.set_axisbelow(True)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)


def _tick(rate: str, results: Results) -> str:
    if rate != UNLIMITED:
        return f"{rate}/s"
    return f"{rate}\n(TCP: {results.raw[rate] / 1e9:.1f} Gbit/s)"
