"""What one run has measured, as plain data that goes into results.json."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.network import formulas
from benchmarks.network.links import UNLIMITED, Rate
from benchmarks.network.methods import APART, ONE_PROCESS


@dataclass(frozen=True)
class Row:
    """One model, method and rate."""

    model: str
    method: str
    rate: str  # a name; "" where nothing travels
    seconds: list[float]  # of each timed step, of all ranks
    counted: float  # bytes that a host sent in a step, by its interface
    formula: float  # the same by arithmetic
    steps_to_loss: int | None  # None: not within the steps that were trained
    busy: float | None = None  # seconds that all threads of a rank compute in a step

    @property
    def step(self) -> float:
        """The median step, in seconds."""
        return formulas.quartiles(self.seconds)[1]

    @property
    def to_loss(self) -> float:
        """Seconds until the loss is reached; infinite where it was not."""
        return (
            math.inf if self.steps_to_loss is None else self.steps_to_loss * self.step
        )


@dataclass(frozen=True)
class Failure:
    """A method that could not be measured."""

    model: str
    method: str
    why: str
    optional: bool = False  # not asked for, so no fault


@dataclass
class Results:
    """Everything that the report is made of."""

    hosts: int
    machine: dict[str, Any]
    raw: dict[str, float] = field(default_factory=dict)  # rate -> bits per second
    rows: list[Row] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    # (model) -> stage -> seconds in one step: "forward", "compress powersgd", ...
    stages: dict[str, dict[str, float]] = field(default_factory=dict)
    shapes: dict[str, list[list[int]]] = field(default_factory=dict)

    def find(self, model: str, method: str, rate: str = "") -> Row | None:
        """Returns a row, or None where it was not measured."""
        for row in self.rows:
            if (row.model, row.method, row.rate) == (model, method, rate):
                return row
        return None

    def one_process(self, model: str) -> float | None:
        """Returns the seconds of the same model's step in one process."""
        row = self.find(model, ONE_PROCESS.name)
        return row.step if row else None

    def both_at_once(self, model: str) -> float | None:
        """Returns the same while every host trains for itself."""
        row = self.find(model, APART.name)
        return row.step if row else None

    def bandwidth(self, rate: str) -> float:
        """Returns the nominal bits per second; without a limit, those of plain TCP."""
        return self.raw[rate] if rate == UNLIMITED else Rate(rate).bits or 0.0

    def limit(self, row: Row) -> float:
        """Returns the seconds that the wire alone needs for a row's bytes."""
        return formulas.wire_seconds(row.formula, self.bandwidth(row.rate))

    def rates(self) -> list[str]:
        """Returns the names of the rates, slowest first."""
        return sorted(self.raw, key=lambda rate: Rate(rate).bits or math.inf)

    def models(self) -> list[str]:
        """Returns the measured models, in order."""
        return list(dict.fromkeys(row.model for row in self.rows))

    def save(self, file: Path) -> None:
        """Writes JSON."""
        file.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n")


def load(file: Path) -> Results:
    """Reads what `save` wrote."""
    data = json.loads(file.read_text())
    data["rows"] = [Row(**row) for row in data["rows"]]
    data["failures"] = [Failure(**failure) for failure in data["failures"]]
    return Results(**data)
