"""What the ranks of a job are to do next, told by files that all hosts see.

A job starts once and then measures at every rate: starting it takes longer than
measuring. While a rank waits, it sends nothing of its own.

Imports nothing but the standard library: it also runs beside PyTorch.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.005


class Orders:
    """A rank's side: `for order in orders: ...; orders.answer(...)`.

    Args:
        folder: What the job shares with the process that measures.
        rank: The number of this rank.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        self._folder, self._rank, self._number = folder, rank, -1
        self._busy = 0.0  # seconds that this process had computed when the order came

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while (order := self.next()) is not None:
            yield order

    def next(self) -> dict[str, Any] | None:
        """Waits for the next order; None says that it was the last one."""
        self._number += 1
        path = self._folder / f"order-{self._number}.json"
        while not path.exists():
            time.sleep(POLL_SECONDS)
        order: dict[str, Any] | None = json.loads(path.read_text())
        self._busy = time.process_time()
        return order

    def answer(self, **what: Any) -> None:
        """Says what came of the order, and how long this process's threads computed."""
        what["busy"] = time.process_time() - self._busy
        _write(self._folder / f"answer-{self._number}-{self._rank}.json", what)


class Commander:
    """The measuring side of one job.

    Args:
        folder: An empty folder that the job's ranks know.
        ranks: How many there are.
    """

    def __init__(self, folder: Path, ranks: int) -> None:
        self._folder, self._ranks, self._number = folder, ranks, -1

    def order(self, **what: Any) -> None:
        """Tells all ranks what to do."""
        self._number += 1
        _write(self._folder / f"order-{self._number}.json", what)

    def answers(self) -> list[dict[str, Any]] | None:
        """Returns the ranks' answers to the last order; None before all are there."""
        paths = [
            self._folder / f"answer-{self._number}-{rank}.json"
            for rank in range(self._ranks)
        ]
        if not all(path.exists() for path in paths):
            return None
        return [json.loads(path.read_text()) for path in paths]

    def end(self) -> None:
        """Says that there are no more orders."""
        self._number += 1
        _write(self._folder / f"order-{self._number}.json", None)


def _write(path: Path, what: Any) -> None:
    """Writes so that nobody reads half of it."""
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(what))
    os.replace(draft, path)
