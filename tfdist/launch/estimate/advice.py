"""Which compression pays, decided from predicted times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tfdist.launch.estimate.compressions import NONE, Compression, Gradients
from tfdist.launch.estimate.cost import Link, efficiency
from tfdist.launch.estimate.units import show_seconds

# What shortens a step by less is not worth another thing that can go wrong.
WORTHWHILE = 1.1
WANTED_EFFICIENCY = 0.9


@dataclass(frozen=True)
class Advice:
    """What to do on so many ranks over such a link."""

    compression: Compression | None  # None: do not compress
    text: str  # the verdict with its reason, one line


def advise(
    gradients: Gradients,
    ranks: int,
    link: Link,
    step: float | None,
    candidates: Sequence[Compression],
) -> Advice:
    """Decides which of the candidates pays.

    A candidate has to make the step `WORTHWHILE` times as fast; one that changes
    the training has to do so against half precision, not only against float32
    (Han, Zhou et al., arXiv:2407.01378, 2024, on the weak baselines of earlier work).

    Args:
        gradients: What is sent.
        ranks: How many ranks there are.
        link: What joins them.
        step: Seconds that a rank computes in a step; None: not known.
        candidates: What may be used.
    """
    dense = NONE.seconds(gradients, ranks, link)
    if ranks == 1:
        return Advice(None, "one rank sends nothing")
    if step is None:
        share = WANTED_EFFICIENCY / (1.0 - WANTED_EFFICIENCY)
        needed = show_seconds(share * dense)
        return Advice(None, f"{WANTED_EFFICIENCY:.0%} needs steps of {needed} or more")
    if step + dense < WORTHWHILE * step:
        headroom = 1.0 - efficiency(step, dense)
        return Advice(None, f"do not compress: only {headroom:.0%} of a step to gain")
    chosen = NONE
    # Half precision first, then in the order of the table: what is listed later has
    # to be worth more than what has proved itself longer.
    for each in sorted(candidates, key=lambda candidate: candidate.way.lossy):
        now = step + chosen.seconds(gradients, ranks, link)
        if now >= WORTHWHILE * (step + each.seconds(gradients, ranks, link)):
            chosen = each
    if chosen == NONE:
        return Advice(None, "do not compress: no candidate shortens the step enough")
    saved = dense - chosen.seconds(gradients, ranks, link)
    gain = (step + dense) / (step + dense - saved)
    limit = show_seconds(saved)
    return Advice(chosen, f"{chosen.label} pays ({gain:.2g}x) if it takes < {limit}")
