"""The errors that tfdist raises at run time, and how every message is worded.

A wrong argument is a plain `ValueError` or `TypeError`. What only a running
cluster can reveal (ranks that disagree, a rank that has ended, silence) is a
`TfdistError`, so that one `except` clause catches it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TfdistError(RuntimeError):
    """Base class of the errors that only a running cluster can reveal."""


class RankMismatchError(TfdistError):
    """Ranks are provably doing different things (another model, an extra step)."""


class RankLostError(TfdistError):
    """A rank ended, or its connection broke, while others still needed it."""


class StallError(TfdistError):
    """Some rank stayed silent for longer than the time limit."""


def explain(problem: str, *, received: object, expected: object, hint: str) -> str:
    """Words an error message: what happened, what was expected, and the fix.

    Args:
        problem: One sentence without a final full stop, naming what is wrong.
        received: What was found; strings are shown as they are.
        expected: What would have been right; strings are shown as they are.
        hint: The exact code, variable or command that repairs it.

    Returns:
        The message, ending in `HINT: ...`.

    Example:
        >>> print(explain("Unknown colour", received="'mauve'",
        ...               expected="'red' or 'blue'", hint="Pass colour='red'."))
        Unknown colour. Received: 'mauve'. Expected: 'red' or 'blue'.
        HINT: Pass colour='red'.
    """
    return f"{problem}. Received: {received}. Expected: {expected}.\nHINT: {hint}"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Returns the known word that was probably meant, in whatever case, or None.

    Example:
        >>> nearest("Cycle_Time", ["cycle_time_ms", "cache_capacity"])
        'cycle_time_ms'
    """
    by_lower = {each.lower(): each for each in known}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.5)
    return by_lower[close[0]] if close else None
