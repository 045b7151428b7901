"""The report: Markdown tables from what was measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from benchmarks.network import formulas, models, targets, verdicts
from benchmarks.network.methods import METHODS
from benchmarks.network.results import Results, Row

PICTURE = "report.png"
# Others were at work: figures can be much too high.
BUSY = 1.0


def report(results: Results) -> str:
    """Returns the whole report."""
    parts = [
        f"# Training over slow links, {results.hosts} hosts",
        _circumstances(results),
        f"![step time over bandwidth]({PICTURE})" if results.hosts == 2 else "",
        *(_target_part(results) if results.hosts == 2 else ()),
    ]
    for model in results.models():
        parts += [f"## {model}", _about(results, model)]
        for rate in results.rates():
            parts += [
                f"### {model}, {rate}",
                _rows(results, model, rate),
                f"Compression: {verdicts.verdict(results, model, rate)}."
                if results.hosts == 2
                else "",
            ]
    if results.failures:
        rows = [(each.model, each.method, each.why) for each in results.failures]
        parts += ["## Not measured", table(("model", "method", "why"), rows)]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    cells = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _circumstances(results: Results) -> str:
    machine = results.machine
    text = (
        f"{results.hosts} hosts in network namespaces share {machine['cores']} cores "
        f"({machine['processor']}); a rank computes with one thread. "
    )
    if results.hosts > machine["cores"]:
        text += "There are more hosts than cores: only the bytes count here. "
    if machine["load before"] > BUSY:
        text += (
            f"**The machine was shared** (load {machine['load before']:.1f} before "
            "the run): times are rough. "
        )
    text += "Versions: " + ", ".join(
        f"{name} {version}" for name, version in machine["versions"].items()
    )
    rows = [
        (rate, f"{results.raw[rate] / 1e6:,.0f} Mbit/s") for rate in results.rates()
    ]
    return f"{text}.\n\n" + table(("link", "plain TCP, each way at once"), rows)


def _about(results: Results, model: str) -> str:
    task = models.task(model)
    numbers = sum(map(math.prod, results.shapes.get(model, [])))
    texts = [
        f"{numbers / 1e6:.1f} million parameters with dense gradients",
        f"{task.batch} examples a rank and step",
    ]
    for what, seconds in (
        ("one process", results.one_process(model)),
        ("every host for itself at once", results.both_at_once(model)),
    ):
        if seconds is not None:
            texts.append(f"{_ms(seconds)} for a step of {what}")
    return (
        f"{', '.join(texts)}. To the loss: the time until the mean loss is below "
        f"{task.loss}, as steps (counted once, over a fast link) times the step."
    )


def _rows(results: Results, model: str, rate: str) -> str:
    one = results.one_process(model)
    rows = [
        _row(results, row, one)
        for row in results.rows
        if (row.model, row.rate) == (model, rate)
    ]
    head = (
        "method",
        "step (quartiles)",
        "processor time",
        "x one process",
        "wire's limit",
        "x limit",
        "MB sent: counted",
        "formula",
        "to the loss",
    )
    return table(head, rows)


def _row(results: Results, row: Row, one: float | None) -> Sequence[str]:
    low, median, high = formulas.quartiles(row.seconds)
    limit = results.limit(row)
    steps = row.steps_to_loss
    return (
        METHODS[row.method].what,
        f"{_ms(median)} ({1e3 * low:.0f} to {1e3 * high:.0f})",
        "" if row.busy is None else _ms(row.busy),
        f"{median / one:.2f}" if one else "",
        _ms(limit),
        f"{median / limit:.1f}",
        f"{row.counted / 1e6:.3g}",
        f"{row.formula / 1e6:.3g}",
        f"{row.to_loss:.1f} s ({steps})" if steps else "not reached",
    )


def _target_part(results: Results) -> list[str]:
    rows, misses = [], []
    for target in targets.targets(results):
        said = {True: "met", False: "**not met**", None: "not measured"}[target.met]
        rows.append(
            (
                target.what,
                _ms(target.limit) if target.limit else "",
                _ms(target.row.step) if target.row else "",
                said,
            )
        )
        if target.met is False and target.row is not None:
            where = verdicts.stages(results, target.row)
            misses.append(f"- {target.what}: {where}")
    if all(row[-1] == "not measured" for row in rows):
        return []
    parts = [
        f"## Targets: {targets.MODEL}, 2 hosts, {targets.RATE}",
        table(("target", "at most", "measured", ""), rows),
    ]
    if misses:
        parts += ["Where the time goes in what is not met:", "\n".join(misses)]
    return parts


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{1e3 * seconds:.0f} ms"
