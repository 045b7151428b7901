"""The file `telemetry.csv`: its columns, how it is written, and how it is read.

Each part of the training that was measured together has one row for all ranks and one
row for each rank. Floats are empty where nothing is known.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tfdist.errors import explain

FILE = "telemetry.csv"
PREVIOUS = "telemetry.previous.csv"
SCHEMA = 1
STEPS, EPOCH = "steps", "epoch"  # what a row is about: some steps, or an epoch's
ALL = "all"  # in the column "rank"
_NOT_KNOWN = float("nan")


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the file; the fields are its columns, after `schema`."""

    scope: str  # STEPS or EPOCH
    epoch: int  # from 0
    step: int  # steps of the whole training when the row was written
    steps: int  # measured for this row; an epoch's first trace is left out
    time: float  # seconds of training so far, without breaks between runs
    rank: int | None  # None: all ranks together
    host: str  # of the rank; in a row for all ranks, the slowest rank's
    slowest_rank: int  # whose own time, step_ms - communication_ms, is the longest
    examples_per_second: float  # of the rank, or the sum of all
    step_ms: float  # wall time of a training step; of all ranks: the mean, as below
    compute_ms: float  # what is not waiting: the model, the optimizer, callbacks
    input_ms: float  # waiting for the next batch
    communication_ms: float  # waiting for other ranks, with nothing left to compute
    bytes_per_step: float  # that reach each rank for the gradients, by formula
    memory_mb: float  # largest resident set so far, 10^6 bytes; of all: the largest
    device_memory_mb: float  # largest so far, on the first GPU
    learning_rate: float
    loss_scale: float
    metrics: Mapping[str, float]  # an epoch's logs; {} but in its row for all ranks

    @property
    def own_ms(self) -> float:
        """What the rank itself takes of a step: all but waiting for the others."""
        return self.step_ms - self.communication_ms


COLUMNS = ("schema", *(field.name for field in dataclasses.fields(Row)))
_INTEGERS = ("epoch", "step", "steps", "slowest_rank")
_TEXTS = ("scope", "host")


class TableError(ValueError):
    """A file is not what `Telemetry` writes; the message says what it is."""


def read(file: Path) -> list[Row]:
    """Returns all rows of a file.

    The last line may be cut off, where a run was killed; it is left out.

    Raises:
        TableError: It cannot be read, is empty, or is something else.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TableError(
            explain(
                f"{file} cannot be read",
                received=f"{type(error).__name__}: {error}",
                expected=f"a {FILE} that Telemetry(log_dir=...) has written",
                hint="Pass the log_dir of a Telemetry callback.",
            )
        ) from error
    whole = text[: text.rfind("\n") + 1]
    try:
        lines = list(csv.reader(whole.splitlines()))
    except csv.Error as error:
        raise TableError(_wrong(file, 1, str(error))) from error
    head = lines[0] if lines else None
    if head is None:
        raise TableError(
            explain(
                f"{file} is empty",
                received=f"{len(text)} characters",
                expected="a heading and rows",
                hint="Train with this log_dir first.",
            )
        )
    if tuple(head) != COLUMNS:
        raise TableError(_wrong(file, 1, f"the columns {','.join(head)[:200]}"))
    rest = enumerate(lines[1:], start=2)
    return [_row(cells, file, number) for number, cells in rest]


def _row(cells: Sequence[str], file: Path, number: int) -> Row:
    if len(cells) != len(COLUMNS) or cells[0] != str(SCHEMA):
        schema = f"schema {cells[0]}, " if cells else ""
        raise TableError(_wrong(file, number, f"{schema}{len(cells)} cells"))
    try:
        values = {
            name: _value(name, cell) for name, cell in zip(COLUMNS, cells, strict=True)
        }
        del values["schema"]
        row = Row(**values)
        _check(row)
    except (ValueError, TypeError, RecursionError) as error:
        raise TableError(_wrong(file, number, str(error))) from error
    return row


def _check(row: Row) -> None:
    """Raises ValueError for figures that nothing can have measured."""
    known = (row.step_ms, row.bytes_per_step)
    others = (row.compute_ms, row.input_ms, row.communication_ms, row.memory_mb)
    if (
        row.steps < 1
        or not all(math.isfinite(value) and value >= 0 for value in known)
        or any(math.isinf(value) for value in others)
    ):
        raise ValueError(f"steps={row.steps}, step_ms={row.step_ms:g} and the like")


def _value(name: str, cell: str) -> Any:
    if name in _TEXTS:
        return cell
    if name == "metrics":
        found = json.loads(cell or "{}")
        if not isinstance(found, dict):
            raise ValueError(f"metrics {cell[:100]}")
        return {key: float(value) for key, value in found.items()}
    if name == "rank":
        return None if cell == ALL else int(cell)
    if name in _INTEGERS or name == "schema":
        return int(cell)
    return float(cell) if cell else _NOT_KNOWN


def _wrong(file: Path, line: int, received: str) -> str:
    return explain(
        f"{file}, line {line}: not what this version of Telemetry writes",
        received=received,
        expected=f"schema {SCHEMA}: {','.join(COLUMNS[:6])},...",
        hint="Train again with this version, or plot with the one that wrote it.",
    )


class Writer:
    """Appends rows to the file of a folder.

    Args:
        folder: Where the file is, or will be.
        steps: How many steps of this training are behind it. 0: a new training; a file
            that is there becomes `telemetry.previous.csv`. Else rows of later steps,
            which a run wrote before it was lost, are removed.

    Raises:
        TableError: The training is to go on with a file that is something else.
    """

    def __init__(self, folder: Path, *, steps: int) -> None:
        self._file = folder / FILE
        kept: list[Row] = []
        if self._file.exists():
            if steps:
                kept = [row for row in read(self._file) if row.step <= steps]
            else:
                self._file.replace(folder / PREVIOUS)
        draft = folder / f"{FILE}.draft"
        with draft.open("w", encoding="utf-8", newline="") as file:
            lines = csv.writer(file, lineterminator="\n")
            lines.writerow(COLUMNS)
            lines.writerows(map(_cells, kept))
        os.replace(draft, self._file)

    def append(self, rows: Iterable[Row]) -> None:
        """Writes rows; they are in the file when this returns."""
        with self._file.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(map(_cells, rows))


def _cells(row: Row) -> list[Any]:
    values = vars(row)
    return [SCHEMA, *(_cell(name, values[name]) for name in COLUMNS[1:])]


def _cell(name: str, value: Any) -> Any:
    if name == "metrics":
        return json.dumps(dict(value)) if value else ""
    if name == "rank":
        return ALL if value is None else value
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.9g}"
    return value
