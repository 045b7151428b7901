"""The tables that `tfdist estimate` prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tfdist.launch.estimate.advice import advise
from tfdist.launch.estimate.compressions import NONE, Compression, Gradients
from tfdist.launch.estimate.cost import (
    Link,
    crossing_bytes,
    efficiency,
    ring_bytes,
    ring_seconds,
    tree_seconds,
)
from tfdist.launch.estimate.units import show_bandwidth, show_bytes, show_seconds


@dataclass(frozen=True)
class Question:
    """What the user asked for."""

    gradients: Gradients
    ranks: tuple[int, ...]
    links: tuple[Link, ...]
    step: float | None  # seconds that a rank computes in a step; None: not known
    candidates: tuple[Compression, ...]


def report(question: Question) -> str:
    """Returns all tables, for a terminal of 88 columns."""
    gradients = question.gradients
    lines = [
        f"{gradients.parameters:,.0f} parameters in {gradients.dtype}: "
        f"{show_bytes(gradients.size)} of gradients a step"
    ]
    if question.step is not None:
        lines.append(f"a rank computes {show_seconds(question.step)} a step")
    for link in question.links:
        lines += ["", *_link_lines(question, link)]
    return "\n".join(lines)


def title(link: Link) -> str:
    """Returns a link in words."""
    words = f"{show_bandwidth(link.bandwidth)}, latency {show_seconds(link.latency)}"
    if link.overhead:
        words += f", {show_seconds(link.overhead)} to start a collective"
    return words


def _link_lines(question: Question, link: Link) -> Iterator[str]:
    gradients, step = question.gradients, question.step
    yield title(link)
    yield from _table(
        ("ranks", "sent by each", "ring", "tree", "efficiency", "verdict"),
        [
            (
                str(ranks),
                show_bytes(ring_bytes(gradients.size, ranks)),
                show_seconds(ring_seconds(gradients.size, ranks, link)),
                show_seconds(tree_seconds(gradients.size, ranks, link)),
                _percent(step, NONE.seconds(gradients, ranks, link)),
                advise(gradients, ranks, link, step, question.candidates).text,
            )
            for ranks in question.ranks
        ],
    )
    most = max(question.ranks)
    crossing = show_bytes(crossing_bytes(most, link))
    if most > 3:
        yield f"  on {most} ranks the ring beats the tree from {crossing} on"
    if not question.candidates:
        return
    yield ""
    yield from _table(
        ("compression", "bytes", *(f"N = {ranks}" for ranks in question.ranks)),
        [
            (
                compression.label,
                show_bytes(compression.wire_bytes(gradients)),
                *(
                    show_seconds(compression.seconds(gradients, ranks, link))
                    for ranks in question.ranks
                ),
            )
            for compression in (NONE, *question.candidates)
        ],
    )


def _percent(step: float | None, communication: float) -> str:
    return "?" if step is None else f"{efficiency(step, communication):.0%}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    # The last column of words is never padded; numbers align at their ends.
    for row in (heads, *rows):
        cells = [
            cell.ljust(width)
            if head in ("verdict", "compression")
            else cell.rjust(width)
            for head, cell, width in zip(heads, row, widths, strict=True)
        ]
        yield ("  " + "  ".join(cells)).rstrip()
