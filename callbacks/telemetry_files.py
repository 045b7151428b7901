"""Where Telemetry writes: the table, and TensorBoard's scalars beside it."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfdist.errors import explain
from tfdist.telemetry.table import EPOCH, PREVIOUS, Row, TableError, Writer

_logger = logging.getLogger("tfdist")
_SCALARS = (
    "examples_per_second",
    "step_ms",
    "compute_ms",
    "input_ms",
    "communication_ms",
    "slowest_rank",
    "bytes_per_step",
    "memory_mb",
    "device_memory_mb",
    "learning_rate",
    "loss_scale",
)


class Files:
    """Null object: nothing is written."""

    def write(self, rows: Iterable[Row], *, steps_before: int) -> None:
        """Writes rows.

        Args:
            rows: What was measured together.
            steps_before: Steps of the training before this run.
        """

    def anew(self) -> Files:
        """Returns the same files, to be opened once more."""
        return self


class FilesOfChief(Files):
    """Writes into a folder, as long as it can: no training fails because of a log.

    Files are opened with the first rows: only then is it known whether a training
    begins or goes on.

    Args:
        folder: The folder; it exists.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._table: Writer | None = None
        self._scalars: Any = None  # of TensorFlow: TensorBoard only shows them
        self._has_failed = False

    def write(self, rows: Iterable[Row], *, steps_before: int) -> None:
        """See `Files.write`."""
        if self._has_failed:
            return
        try:
            self._write(list(rows), steps_before)
        except (OSError, tf.errors.OpError) as error:
            self._has_failed = True  # after half a line, none may follow
            _logger.warning(
                "Telemetry writes no more into %s; training goes on. %s: %s\nHINT: "
                "Make room there, or pass another log_dir.",
                self._folder,
                type(error).__name__,
                error,
            )

    def anew(self) -> Files:
        """See `Files.anew`."""
        return FilesOfChief(self._folder)

    def _write(self, rows: list[Row], steps_before: int) -> None:
        if self._table is None:
            self._table = self._opened(steps_before)
            self._scalars = tf.summary.create_file_writer(str(self._folder))
        self._table.append(rows)
        summary = tf.compat.v1.Summary(
            value=[
                tf.compat.v1.Summary.Value(tag=f"telemetry/{tag}", simple_value=value)
                for tag, value in _scalars(rows)
            ]
        )
        # All at once: an operation for each would take longer than the table.
        with self._scalars.as_default():
            tf.summary.experimental.write_raw_pb(
                summary.SerializeToString(), step=rows[0].step
            )
        if rows[0].scope == EPOCH:
            self._scalars.flush()

    def _opened(self, steps_before: int) -> Writer:
        try:
            return Writer(self._folder, steps=steps_before)
        except TableError as error:
            _logger.warning("Telemetry: what is there becomes %s. %s", PREVIOUS, error)
            return Writer(self._folder, steps=0)


def problem_of(folder: Path) -> str:
    """Makes a folder; returns why nothing can be written there, "" if it can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".telemetry"
        probe.touch()
        probe.unlink()
    except OSError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def refuse_folder(folder: str, problem: str) -> None:
    """Raises ValueError for a folder in which the chief cannot write."""
    raise ValueError(
        explain(
            "Telemetry cannot write its files",
            received=f"log_dir={folder!r}; {problem}",
            expected="a folder in which rank 0 may write",
            hint='Telemetry(log_dir="runs/first")',
        )
    )


def _scalars(rows: Iterable[Row]) -> Iterator[tuple[str, float]]:
    """Yields the tags and values of rows of one step for TensorBoard."""
    for row in rows:
        if row.rank is not None:
            if not math.isnan(row.own_ms):
                yield f"{row.scope}/own_ms/rank_{row.rank}", row.own_ms
            continue
        for name in _SCALARS:
            if not math.isnan(getattr(row, name)):
                yield f"{row.scope}/{name}", getattr(row, name)
        for name, value in row.metrics.items():
            yield f"{row.scope}/{name}", value
