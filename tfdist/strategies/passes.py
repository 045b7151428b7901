"""What Keras's loop iterates in a resumed fit: passes over the data, made when needed.

Keras begins a new pass at the start of an epoch, at its end, or when `steps_per_epoch`
have used one up. Its own loop, run through with these stand-ins and without data,
tells which pass a position is in, and how many batches were taken from each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass
class Pass:
    """Stands in for one iterator of the data."""

    taken: int = 0  # batches
    real: Any = None  # the iterator in its place, once it is needed

    def __next__(self) -> None:
        """Takes a batch."""
        self.taken += 1

    def __iter__(self) -> Pass:
        """Is an iterator, as Keras expects it."""
        return self


class Passes:
    """Stands in for the data.

    Args:
        end: Called with each pass that was not needed, when it ends.
    """

    def __init__(self, end: Callable[[Pass], None]) -> None:
        self._end = end
        self._last: Pass | None = None

    def __iter__(self) -> Pass:
        """Begins a pass."""
        self.close()
        self._last = Pass()
        return self._last

    def close(self) -> None:
        """Ends the last pass."""
        last, self._last = self._last, None
        if last is not None and last.real is None:
            self._end(last)
