"""How pytest shows a failure that happened on another rank."""

from __future__ import annotations

from typing import NamedTuple

from _pytest._code.code import TerminalRepr
from _pytest._io import TerminalWriter


class Headline(NamedTuple):
    """What pytest's summary shows of a failure."""

    message: str


class Told(TerminalRepr):
    """A failure as text, with a headline for pytest's summary.

    pytest takes a plain string for the headline as a whole and does not shorten it
    where the variable CI is set, so every failure would be shown twice there.
    """

    def __init__(self, headline: str, text: str) -> None:
        self.reprcrash = Headline(headline)
        self.text = text

    def followed_by(self, more: str) -> Told:
        """Returns the same failure with more text."""
        return Told(self.reprcrash.message, self.text + more)

    def toterminal(self, tw: TerminalWriter) -> None:
        """Writes all of it; pytest calls it for the report."""
        tw.line(str(self))

    def __str__(self) -> str:
        return f"{self.reprcrash.message}\n\n{self.text}"
