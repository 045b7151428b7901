"""The list of rows: every feature that must give the one-process result."""

import fnmatch
import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from tests.parallel.setting import Setting

Results = dict[str, np.ndarray]
RowFunction = Callable[[Setting], Results]


class Needs(IntEnum):
    """What a row uses; a mode that offers one of these offers all before it."""

    KERAS = 0
    STRATEGY = 1  # calls the strategy's own methods, which stock Horovod lacks
    TFDIST = 2


@dataclass(frozen=True)
class Row:
    """One feature, trained the same way under every strategy."""

    name: str  # identifier: file names, pytest parameter, --rows pattern
    title: str  # how the table names it
    group: str  # heading in the table; the file of rows it comes from
    run: RowFunction
    tolerance: float = 1e-5  # largest |difference| / max(1, |reference|)
    compared: bool = True  # False: the row asserts by itself; ranks must still agree
    may_refuse: bool = False  # a clear refusal (an error with a HINT) is right too
    needs: Needs = Needs.KERAS
    proves: tuple[int, ...] = ()  # rows of the table of failures in docs/recovery.md


ROWS: dict[str, Row] = {}


def row(
    title: str,
    *,
    name: str | None = None,
    tolerance: float = 1e-5,
    compared: bool = True,
    may_refuse: bool = False,
    needs: Needs = Needs.KERAS,
    proves: tuple[int, ...] = (),
) -> Callable[[RowFunction], RowFunction]:
    """Register the decorated function as one row of the matrix."""

    def register(function: RowFunction) -> RowFunction:
        key = name or str(getattr(function, "__name__", ""))
        if key in ROWS:
            raise ValueError(f"Two rows are named {key!r}.")
        function_of_file = getattr(function, "func", function)  # look through partial
        group = function_of_file.__module__.rpartition(".")[2].replace("_", " ")
        ROWS[key] = Row(
            key,
            title,
            group,
            function,
            tolerance,
            compared,
            may_refuse,
            needs,
            proves,
        )
        return function

    return register


def load_rows(patterns: Iterable[str] = ("*",)) -> Mapping[str, Row]:
    """Import every file of rows and return the rows that match a pattern."""
    package = importlib.import_module("tests.parallel.rows")
    for module in package.ORDER:
        importlib.import_module(f"{package.__name__}.{module}")
    patterns = list(patterns)
    chosen = {
        key: value
        for key, value in ROWS.items()
        if any(fnmatch.fnmatch(key, pattern) for pattern in patterns)
    }
    if not chosen:
        raise ValueError(f"No row matches {patterns}. Rows: {sorted(ROWS)}.")
    return chosen
