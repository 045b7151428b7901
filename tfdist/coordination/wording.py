"""The sentences of the ledger: which ranks, and what differs between them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

_SHOWN_DIFFERENCES = 5
_SHOWN_TEXT = 200  # characters

HINT_LOST = (
    "\nHINT: Look at that rank's own output; if it ended by itself, give every rank "
    "the same number of steps and the same calls."
)


def name_ranks(ranks: Iterable[int]) -> str:
    """Returns "rank 1", "ranks 0,2" or "ranks 0-3,6".

    Example:
        >>> name_ranks([6, 0, 1, 2, 3])
        'ranks 0-3,6'
    """
    runs: list[list[int]] = []
    for rank in sorted(ranks):
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    parts = [
        f"{run[0]}-{run[-1]}" if len(run) > 2 else ",".join(map(str, run))
        for run in runs
    ]
    plural = "s" if sum(map(len, runs)) > 1 else ""
    return f"rank{plural} {','.join(parts)}"


def group(versions: Mapping[int, str]) -> str:
    """Returns who has which version: "ranks 0,2: evaluate; rank 1: fit".

    Args:
        versions: The text that each rank has.
    """
    ranks: dict[str, list[int]] = {}
    for rank in sorted(versions):
        ranks.setdefault(versions[rank], []).append(rank)
    return "; ".join(f"{name_ranks(who)}: {short(text)}" for text, who in ranks.items())


def differences(versions: Mapping[int, Mapping[str, str]]) -> str:
    """Returns the first details in which the ranks differ, one a line.

    Args:
        versions: The details of each rank, as texts.

    Returns:
        The lines, or "" where the details are equal.
    """
    keys = dict.fromkeys(key for details in versions.values() for key in details)
    lines = []
    for key in keys:
        texts = {rank: of.get(key, "(missing)") for rank, of in versions.items()}
        if len(set(texts.values())) > 1:
            lines.append(f"details[{short(key)!r}]: {group(texts)}")
    if len(lines) > _SHOWN_DIFFERENCES:
        more = len(lines) - _SHOWN_DIFFERENCES
        lines = [*lines[:_SHOWN_DIFFERENCES], f"and {more} more differences"]
    return "\n".join(lines)


def short(text: str) -> str:
    """Returns the text, cut where it is too long for a message."""
    return text if len(text) <= _SHOWN_TEXT else text[:_SHOWN_TEXT] + "..."
