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
    """Says which compressor to use at a rate, or not to compress.

    Decided by the time to the loss: a step that learns less may well be short.
    """
    dense = results.find(model, DENSE, rate)
    rows = compressed(results, model, rate)
    if dense is None or not rows:
        return "not measured"
    best = min(rows, key=lambda row: row.to_loss)
    if dense.steps_to_loss is None or best.steps_to_loss is None:
        return "the loss was not reached"
    numbers = (
        f"to the loss dense {dense.to_loss:.1f} s, {METHODS[best.method].what} "
        f"{best.to_loss:.1f} s"
    )
    if dense.to_loss < WORTHWHILE * best.to_loss:
        return f"**do not compress**: {numbers}"
    return f"{best.method} pays, {dense.to_loss / best.to_loss:.1f} x: {numbers}"


def stages(results: Results, row: Row) -> str:
    """Splits a step: computing, compressing, the wire, and what remains."""
    computing = results.both_at_once(row.model) or results.one_process(row.model)
    if computing is None:
        return "its stages were not measured"
    parts = {"computing on both hosts at once": computing}
    measured = results.stages.get(row.model, {})
    if row.method in measured:
        parts["compressing and decompressing"] = measured[row.method]
    raw = results.raw[row.rate]
    wire = formulas.wire_seconds(row.formula, raw)
    parts[f"{row.formula / 1e6:.2f} MB at TCP's {raw / 1e6:.0f} Mbit/s"] = wire
    collectives = measured.get(f"collectives of {row.method}, {row.rate}")
    if collectives is not None:
        parts["that its collectives, alone, take longer than TCP"] = collectives - wire
    left = row.step - sum(parts.values())
    parts["the rest (copies, waiting for the slower rank, agreeing)"] = max(left, 0.0)
    longest = max(parts, key=parts.__getitem__)
    texts = [
        f"{'**' if name == longest else ''}{_ms(seconds)} {name}"
        f"{'**' if name == longest else ''}"
        for name, seconds in parts.items()
    ]
    overlap = f" - {_ms(-left)} of these at the same time" if left < 0 else ""
    busy = "" if row.busy is None else f"; a rank's threads compute {_ms(row.busy)}"
    return f"{_ms(row.step)} = {' + '.join(texts)}{overlap}{busy}"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.0f} ms"
