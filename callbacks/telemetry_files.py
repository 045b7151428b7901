"""Where Telemetry writes: the table, and TensorBoard's scalars beside it."""

from __future__ import annotations

import importlib.util
import logging
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfdist.errors import explain
from tfdist.telemetry.table import PREVIOUS, Row, TableError, Writer

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
        self._scalars: Any = None
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

    def _write(self, rows: list[Row], steps_before: int) -> None:
        if self._table is None:
            self._table = self._opened(steps_before)
            self._scalars = _scalar_writer(self._folder)
        self._table.append(rows)
        if self._scalars is not None:
            with self._scalars.as_default():
                _write_scalars(rows)
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


def _scalar_writer(folder: Path) -> Any:
    """Returns TensorFlow's writer of summaries, or None where TensorBoard is missing.

    `tf.summary.scalar` is TensorBoard's, which TensorFlow 2.21 no longer installs.
    """
    if importlib.util.find_spec("tensorboard") is None:
        _logger.warning(
            "Telemetry writes no scalars for TensorBoard, which is not installed; the "
            "table is complete. HINT: %s -m pip install 'tfdist[tensorboard]'",
            sys.executable,
        )
        return None
    return tf.summary.create_file_writer(str(folder))


def _write_scalars(rows: list[Row]) -> None:
    for row in rows:
        kind = f"telemetry/{row.scope}"
        if row.rank is not None:
            if not math.isnan(row.own_ms):
                name = f"{kind}/own_ms/rank_{row.rank}"
                tf.summary.scalar(name, row.own_ms, step=row.step)
            continue
        for name in _SCALARS:
            value = getattr(row, name)
            if not math.isnan(value):
                tf.summary.scalar(f"{kind}/{name}", value, step=row.step)
        for name, value in row.metrics.items():
            tf.summary.scalar(f"{kind}/{name}", value, step=row.step)
