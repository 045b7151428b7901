"""Some steps of a `fit` as Chrome traces: TensorFlow's, and Horovod's own."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfdist import cluster
from tfdist.errors import explain
from tfdist.tools import chrome_trace

_logger = logging.getLogger("tfdist")
_USUAL = (11, 20)  # past what traces, and what warms up
_WRITING_SECONDS = 10.0  # for Horovod to finish its file


class Timeline:
    """Null object: records nothing."""

    def executed(self) -> None:
        """Notes that an execution of steps has ended."""

    def close(self) -> None:
        """Ends a recording that is under way."""


class RunningTimeline(Timeline):
    """Records from one step to another, on this rank.

    With `steps_per_execution` it records whole executions.

    Args:
        steps: The first and the last step, from 1.
        folder: Where the traces are written.
        model: The model that is being fitted.
    """

    def __init__(self, steps: tuple[int, int], folder: Path, model: Any) -> None:
        self._first, self._last = steps
        self._folder = folder
        self._model = model
        self._made = 0
        self._begun = False
        self._recording: contextlib.ExitStack | None = None
        self._files: list[str] = []
        self._consider()

    def executed(self) -> None:
        """See `Timeline.executed`."""
        self._made += self._model.steps_per_execution
        self._consider()

    def close(self) -> None:
        """See `Timeline.close`."""
        if self._recording is not None:
            self._recording.close()
            self._recording = None
            files = ", ".join(self._files) or "nothing was recorded"
            _logger.warning("Telemetry's timeline: %s", files)
        elif not self._begun and cluster.is_chief():
            _logger.warning(
                "Telemetry recorded no timeline: training ended after %d steps, it was "
                "to begin with step %d. HINT: Pass timeline=(first, last).",
                self._made,
                self._first,
            )

    def _consider(self) -> None:
        if self._recording is not None:
            if self._made >= self._last:
                self.close()
        elif not self._begun and self._made + 1 >= self._first:
            self._begun, self._recording = True, contextlib.ExitStack()
            self._record_tensorflow(self._recording)
            self._record_horovod(self._recording)

    def _record_tensorflow(self, ending: contextlib.ExitStack) -> None:
        """Records this process; each rank into a folder of its own."""
        folder = self._folder / f"rank-{cluster.rank()}"
        try:
            tf.profiler.experimental.start(str(folder))
        except tf.errors.AlreadyExistsError:  # one records a process at a time
            _logger.warning(
                "Telemetry's timeline holds nothing of TensorFlow: another profiler "
                "is running. HINT: Leave profile_batch of TensorBoard out."
            )
            return
        trace = folder.with_suffix(".json.gz")
        self._files.append(str(trace))

        def stop() -> None:
            tf.profiler.experimental.stop()
            profile = max(folder.rglob("*.xplane.pb"), key=lambda f: f.stat().st_mtime)
            if chrome_trace.write(profile, trace) is None:
                self._files[0] = str(profile)

        ending.callback(stop)

    def _record_horovod(self, ending: contextlib.ExitStack) -> None:
        """Records what Horovod does for all ranks, on rank 0."""
        strategy = self._model.distribute_strategy
        file = self._folder / "horovod.json"
        if not hasattr(strategy, "start_timeline"):
            return
        if not strategy.start_timeline(str(file)):
            return
        if cluster.is_chief():
            self._files.append(str(file))
            ending.callback(_wait_for_json, file)
        ending.callback(strategy.stop_timeline)


def timeline_of(
    steps: tuple[int, int] | None, log_dir: str | None, model: Any
) -> Timeline:
    """Returns what records the steps of a `fit` that begins.

    Args:
        steps: The first and the last one; None: no timeline.
        log_dir: The folder that holds the folder of the traces.
        model: The model that is being fitted.
    """
    if steps is None or log_dir is None:
        return Timeline()
    folder = Path(log_dir) / "timeline"
    folder.mkdir(parents=True, exist_ok=True)
    return RunningTimeline(steps, folder, model)


def checked_range(
    timeline: bool | Sequence[int] | None, log_dir: str | None
) -> tuple[int, int] | None:
    """Returns the first and the last step, or None for no timeline.

    Raises:
        ValueError: They are not such steps, or there is no folder for the files.
    """
    if timeline is None or timeline is False:
        return None
    steps = _USUAL if timeline is True else timeline
    valid = (
        isinstance(steps, list | tuple)
        and len(steps) == 2
        and all(isinstance(s, int) and not isinstance(s, bool) for s in steps)
        and 1 <= steps[0] <= steps[1]
    )
    if not valid or log_dir is None:
        raise ValueError(
            explain(
                "Telemetry cannot record this timeline",
                received=f"timeline={timeline!r}, log_dir={log_dir!r}",
                expected="True or (first, last) with 1 <= first <= last, and a folder",
                hint='Telemetry("runs/first", timeline=(11, 20))',
            )
        )
    first, last = steps
    return first, last


def _wait_for_json(file: Path) -> None:
    """Waits until Horovod's own thread has written all of its file."""
    deadline = time.monotonic() + _WRITING_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError):
            json.loads(file.read_text())
            return
        time.sleep(0.02)
    _logger.warning("Horovod has not finished its timeline %s.", file)
