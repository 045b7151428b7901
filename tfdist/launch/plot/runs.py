"""What is to be drawn: runs, read from their folders."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tfdist.launch.errors import CommandError
from tfdist.telemetry.table import EPOCH, FILE, STEPS, Row, TableError, read

PARTS = ("compute_ms", "input_ms", "communication_ms")


@dataclass(frozen=True)
class Rank:
    """Where one rank's time went in the whole run."""

    number: int
    host: str
    parts: tuple[float, ...]  # ms of a step: computing, input, other ranks; or NaN
    step_ms: float

    @property
    def own_ms(self) -> float:
        """All but waiting for others."""
        waited = self.parts[-1]
        return self.step_ms - (0.0 if math.isnan(waited) else waited)


@dataclass(frozen=True)
class Run:
    """One training."""

    name: str
    parts: list[Row]  # for all ranks, in order
    epochs: list[Row]  # likewise
    ranks: list[Rank]

    @property
    def whole(self) -> Rank:
        """The mean over the ranks."""
        columns = zip(*(rank.parts for rank in self.ranks), strict=True)
        parts = tuple(statistics.mean(column) for column in columns)
        step = statistics.mean(rank.step_ms for rank in self.ranks)
        return Rank(-1, "", parts, step)

    @property
    def slowest(self) -> Rank:
        """The rank with the longest time of its own."""
        return max(self.ranks, key=lambda rank: rank.own_ms)

    @property
    def examples_per_second(self) -> float:
        """Of the whole run; NaN where it is not known."""
        seconds = sum(row.steps * row.step_ms / 1000 for row in self.parts)
        examples = (
            row.examples_per_second * row.steps * row.step_ms / 1000
            for row in self.parts
        )
        return sum(examples) / seconds

    @property
    def metrics(self) -> list[str]:
        """The names of the metrics of any epoch, in order."""
        return list(dict.fromkeys(name for row in self.epochs for name in row.metrics))


def load(folder: Path, name: str) -> Run:
    """Returns the run of a folder.

    Raises:
        CommandError: It holds no table of Telemetry, or an empty one.
    """
    file = folder / FILE
    if not file.is_file():
        problem = f"no {FILE} in {folder}" if folder.is_dir() else f"no folder {folder}"
        raise CommandError(
            f"there is {problem}.",
            hint="pass the log_dir of a tfdist.callbacks.Telemetry(log_dir)",
        )
    try:
        rows = read(file)
    except TableError as error:
        text, _, hint = str(error).partition("\nHINT: ")
        raise CommandError(text, hint=hint) from error
    parts = [row for row in rows if row.scope == STEPS and row.rank is None]
    ranks = _ranks(row for row in rows if row.scope == STEPS and row.rank is not None)
    if not parts or not ranks:
        raise CommandError(
            f"{file} has no rows yet.",
            hint="rows come each `every` steps and each epoch; wait, or train longer",
        )
    return Run(
        name,
        parts,
        [row for row in rows if row.scope == EPOCH and row.rank is None],
        ranks,
    )


def named(folders: Sequence[Path]) -> list[str]:
    """Returns names for folders: their last parts, as many as tell them apart."""
    paths = [folder.absolute().parts for folder in folders]
    longest = max(map(len, paths))
    for count in range(1, longest + 1):
        names = ["/".join(parts[-count:]) for parts in paths]
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({number})" for number, name in enumerate(names, start=1)]


def _ranks(rows: Iterable[Row]) -> list[Rank]:
    """Returns each rank's means, over the run's steps.

    A run may go on with another number of ranks: then its last part counts.
    """
    listed = list(rows)
    last = [row.rank for row in listed if row.step == listed[-1].step]
    found = []
    for number in last:
        own = [row for row in listed if row.rank == number]
        parts = tuple(_mean(own, part) for part in PARTS)
        found.append(Rank(number or 0, own[-1].host, parts, _mean(own, "step_ms")))
    return found


def _mean(rows: Sequence[Row], name: str) -> float:
    steps: int = sum(row.steps for row in rows)
    total: float = sum(row.steps * getattr(row, name) for row in rows)
    return total / steps
