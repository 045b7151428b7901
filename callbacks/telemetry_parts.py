"""Divides a training into parts, and learns what all ranks measured of each."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tfdist import cluster
from tfdist.strategies.step_times import StepTimes, Totals
from tfdist.strategies.training import KerasTraining

from .telemetry_figures import Measured, memory


class _Mark(NamedTuple):
    time: float  # seconds of the process's clock
    totals: Totals  # then


class Parts:
    """Measures one `fit`, part by part.

    Args:
        model: The model that is being fitted.
        executed: Called after each execution, with the steps of this part so far.

    Attributes:
        has_steps: Whether this part has had an execution; equal on all ranks.
    """

    def __init__(self, model: Any, executed: Callable[[int], None]) -> None:
        self._strategy = model.distribute_strategy
        self._executed = executed
        self._times = StepTimes(model, self._count)
        self._steps = 0  # of this part
        self.has_steps = False
        self._began = time.perf_counter()
        self._first: _Mark | None = None  # when the first execution had ended
        self._ended = self._began  # when the last execution had ended
        self._opening: float | None = None  # seconds until a part's first execution
        self._since = self._mark()

    def in_force(self) -> contextlib.AbstractContextManager[None]:
        """Measures what is traced within."""
        return self._times.in_force()

    @property
    def steps(self) -> int:
        """The steps of this `fit`."""
        return int(self._times.totals().steps)

    @property
    def seconds(self) -> float:
        """The seconds since this `fit` began."""
        return time.perf_counter() - self._began

    def begin(self) -> None:
        """Begins an epoch's first part; what was between does not count."""
        self._steps = 0
        self.has_steps = False
        self._opening = None
        self._since = self._mark()

    def end(self) -> np.ndarray:
        """Ends a part and begins the next one; all ranks call it alike.

        Returns:
            [ranks, fields of `Measured`]. The part ends with its last execution: what
            came then, such as validation, does not count. A `fit`'s first execution,
            which traces, is left out where its part has others.
        """
        end, since = self._mark()._replace(time=self._ended), self._since
        first = self._first
        if first is not None and not since.totals.steps < first.totals.steps:
            first = None
        opening = self._opening or 0.0
        if first is not None and first.totals.steps < end.totals.steps:
            since, opening = first, 0.0
        self._steps, self._since, self._opening = 0, end, 0.0
        self.has_steps = False
        made = Totals(*np.subtract(end.totals, since.totals))
        own = Measured(
            made.steps,
            made.examples,
            end.time - since.time,
            made.input_seconds + opening,
            made.communication_seconds,
            *memory(),
        )
        return gathered(self._strategy, own)

    def _count(self, steps: int) -> None:
        self._ended = time.perf_counter()
        self.has_steps = True
        if self._opening is None:  # Keras has made the epoch's iterator
            self._opening = self._times.started - self._since.time
        if self._first is None:
            self._first = self._mark()
        else:
            self._steps += steps
        self._executed(self._steps)

    def _mark(self) -> _Mark:
        totals = self._times.totals()  # waits for the steps that are under way
        return _Mark(time.perf_counter(), totals)


def gathered(strategy: Any, values: Sequence[float]) -> np.ndarray:
    """Returns the processes' numbers, [processes, n], also where there is but one."""
    if isinstance(strategy, KerasTraining) and cluster.size() > 1:
        return strategy.gather_numbers(values)
    return np.array([values], np.float64)


def gathered_text(strategy: Any, text: str, *, size: int = 64) -> list[str]:
    """Returns the processes' short texts, in order of rank; cut after `size` bytes."""
    own = text.encode()[:size].ljust(size, b"\0")
    rows = gathered(strategy, list(own)).astype(np.uint8)
    return [row.tobytes().rstrip(b"\0").decode(errors="replace") for row in rows]
