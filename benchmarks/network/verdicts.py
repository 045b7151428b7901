"""Whether compression pays, and where a step's time goes: decided from measurements."""

from __future__ import annotations

from benchmarks.network import formulas
from benchmarks.network.methods import METHODS
from benchmarks.network.results import Results, Row
from tfdist.launch.estimate.advice import WORTHWHILE

DENSE = "tfdist"


def compressed(results: Results, model: str, rate: str) -> list[Row]:
    """Returns the rows of tfdist's compressors, fastest first."""
    rows = [
        row
        for row in results.rows
        if (row.model, row.rate) == (model, rate)
        and "compressor" in METHODS[row.method].options
    ]
    return sorted(rows, key=lambda row: row.step)


def verdict(results: Results, model: str, rate: str) -> str:
    """Says which compressor to use at a rate, or not to compress."""
    dense = results.find(model, DENSE, rate)
    rows = compressed(results, model, rate)
    if dense is None or not rows:
        return "not measured"
    best = rows[0]
    numbers = (
        f"dense {1e3 * dense.step:.0f} ms, {METHODS[best.method].what} "
        f"{1e3 * best.step:.0f} ms"
    )
    if dense.step < WORTHWHILE * best.step:
        return f"**do not compress**: {numbers}"
    return f"{best.method} pays, {dense.step / best.step:.1f} x: {numbers}"


def stages(results: Results, row: Row) -> str:
    """Splits a step: computing, compressing, the wire, and what remains."""
    computing = results.both_at_once(row.model) or results.one_process(row.model)
    if computing is None:
        return "its stages were not measured"
    parts = {"computing on both hosts at once": computing}
    measured = results.stages.get(row.model, {})
    compressing = measured.get(f"{row.method} in the job", measured.get(row.method))
    if compressing is not None:
        parts["compressing and decompressing"] = compressing
    raw = results.raw[row.rate]
    parts[f"{row.formula / 1e6:.2f} MB at TCP's {raw / 1e6:.0f} Mbit/s"] = (
        formulas.wire_seconds(row.formula, raw)
    )
    parts["the rest (copies, adding up, waiting, agreeing)"] = row.step - sum(
        parts.values()
    )
    longest = max(parts, key=parts.__getitem__)
    texts = [
        f"{'**' if name == longest else ''}{1e3 * seconds:.0f} ms {name}"
        f"{'**' if name == longest else ''}"
        for name, seconds in parts.items()
    ]
    return f"{1e3 * row.step:.0f} ms = " + " + ".join(texts)
