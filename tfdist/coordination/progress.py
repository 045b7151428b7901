"""How far this process is: 24 bytes that `tfdist run` watches from outside.

The wrapper around a rank must see whether it makes steps even while it is stopped
or blocked inside C++, so the rank cannot be asked. It writes numbers into a shared
mapping instead, which costs no system call, and nothing without `tfdist run`. The
memory has no name in any folder, so that nothing is left when both are killed, and
the wrapper still reads it when the rank has ended.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

# Steps made, whether a step is expected (0 or 1), the step reached (-1: not told).
_RECORD = struct.Struct("=qqq")
_COMPUTING = 1.0  # seconds; a call that computed more recently is not stuck


@dataclass(frozen=True)
class Reading:
    """What the wrapper sees."""

    steps: int  # that this process has made
    expected: bool  # another one should come
    reached: int  # the run's last complete step, over all restarts


class Progress:
    """What one process writes.

    Args:
        record: The descriptor that `create` has returned, inherited.
    """

    def __init__(self, record: int):
        self._record = mmap.mmap(record, _RECORD.size)
        self._steps = 0
        self._reached = -1
        self._depth = 0  # fit, and inside it evaluate
        self._in_loop = False
        self._calls = 0

    def step(self) -> None:
        """Counts a step; from the first one of a phase on, more are expected."""
        self._steps += 1
        self._write(self._depth > 0)

    @contextlib.contextmanager
    def phase(self, single_step: bool) -> Iterator[None]:
        """Enters `fit` or the like; outside of a phase, no step is expected.

        Args:
            single_step: It is one step, as in `train_on_batch`. The first one may
                take long, for it is traced; later ones are expected to end.
        """
        self._depth += 1
        if single_step and self._steps:
            self._write(True)
        try:
            yield
        finally:
            self._depth -= 1
            if single_step:
                self._steps += 1
            if not self._depth:
                self._write(False)

    def reach(self, step: int) -> None:
        """Notes the run's last complete step; see the function `reach`."""
        self._reached = step
        self._write(_RECORD.unpack_from(self._record)[1])

    def enter_loop(self) -> None:
        """Notes that the script trains in a loop of its own; see `note_call`."""
        self._in_loop = True

    def note_call(self, calls: int, blocked: float, idle: float) -> None:
        """Takes a sample of the watchdog, the only view into a loop of one's own.

        A step of a user's loop is a call into TensorFlow. While there is none, the
        script may rightly do something else, so no step is expected.

        Args:
            calls: The calls that were told apart so far.
            blocked: Seconds inside the present one; 0 outside of one.
            idle: Seconds of these without computation.
        """
        if not self._in_loop or self._depth:
            return
        if calls != self._calls or (blocked and idle < _COMPUTING):
            self._steps += 1
        self._calls = calls
        self._write(blocked > 0)

    def _write(self, expected: bool) -> None:
        _RECORD.pack_into(self._record, 0, self._steps, expected, self._reached)


_installed: Progress | None = None


def create() -> int:
    """Returns a descriptor of new memory; the wrapper hands it on to the rank."""
    record = os.memfd_create("tfdist-progress")
    os.pwrite(record, _RECORD.pack(0, 0, -1), 0)
    return record


def read(record: int) -> Reading:
    """Returns how far the rank is; also when it has ended.

    Where nobody has told the step reached, a script is taken to begin anew.
    """
    steps, expected, reached = _RECORD.unpack(os.pread(record, _RECORD.size, 0))
    return Reading(steps, bool(expected), steps if reached < 0 else reached)


def install(record: int) -> None:
    """Makes this process report from now on."""
    global _installed
    _installed = Progress(record)


def installed() -> Progress | None:
    """Returns this process's record; None where nobody watches."""
    return _installed


def reach(step: int) -> None:
    """Tells `tfdist run`, where it watches, the run's last complete step.

    A script that resumes calls it when it has resumed, and after every step. Only so
    can a restart tell a run that gets further each time from one that always dies at
    the same step.

    Args:
        step: Counted over the whole run, not since this process has started.
    """
    if _installed is not None:
        _installed.reach(step)


def phase(single_step: bool) -> contextlib.AbstractContextManager[None]:
    """Enters a phase, where somebody watches; see `Progress.phase`."""
    watched = _installed
    return contextlib.nullcontext() if watched is None else watched.phase(single_step)


def counted(method: Callable[..., Any], progress: Progress) -> Callable[..., Any]:
    """Returns a method that counts a step whenever it is called."""

    def count(*args: Any, **kwargs: Any) -> Any:
        progress.step()
        return method(*args, **kwargs)

    return count
