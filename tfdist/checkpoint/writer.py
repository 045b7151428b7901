"""Saving in the background: one thread, one save in flight, buffers that are reused.

What training waits for is a copy in memory. The copy goes to the same buffers every
time: fresh memory costs fifty times as much, as the kernel has to give out every page.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tfdist.checkpoint.layout import Array
from tfdist.checkpoint.parts import Part
from tfdist.checkpoint.plain import plain_copy
from tfdist.checkpoint.store import Store
from tfdist.errors import explain

LOWEST = 19  # of all priorities

Buffers = dict[str, Array]


@dataclass
class Counts:
    """What a writer has done so far.

    Attributes:
        saved: Saves that ended well.
        skipped: Saves that were not made, as the one before was still in flight.
        waited: Times that `submit` waited for the one before.
        waiting_seconds: How long it waited in all.
        copying_seconds: How long it copied in all.
        writing_seconds: How long the background wrote in all.
    """

    saved: int = 0
    skipped: int = 0
    waited: int = 0
    waiting_seconds: float = 0.0
    copying_seconds: float = 0.0
    writing_seconds: float = 0.0


class Writer:
    """Copies a state and saves the copy while training goes on.

    Holds one copy of the state, and nothing else of its size.

    Args:
        store: Where to; open.
        policy: What `submit` does while a save is in flight: "wait" for it, or "skip".
            With several ranks the decision must be the same on all of them: look at
            `busy` and agree before.

    Raises:
        ValueError: Another policy.

    Example:
        >>> writer = Writer(store)
        >>> writer.submit(100, part)  # returns after a copy in memory
        True
        >>> writer.check()  # at every step: raises what failed meanwhile
        >>> writer.close()
    """

    def __init__(self, store: Store, policy: str = "wait") -> None:
        if policy not in ("wait", "skip"):
            raise ValueError(
                explain(
                    "Unknown policy of a save that comes too early",
                    received=repr(policy),
                    expected="'wait' or 'skip'",
                    hint="policy='skip' leaves that save out.",
                )
            )
        self.counts = Counts()
        self._store = store
        self._policy = policy
        self._own: Buffers = {}
        self._common: Buffers = {}
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def busy(self) -> bool:
        """Whether a save is in flight."""
        return self._thread is not None and self._thread.is_alive()

    def reserve(self, part: Part) -> None:
        """Makes the buffers for parts like this one, so that the first save is short.

        Not while a save is in flight.
        """
        self._own = _fitting(self._own, part.own)
        self._common = _fitting(self._common, part.common)

    def submit(self, step: int, part: Part) -> bool:
        """Takes a copy of a rank's part and returns, while it is saved.

        Returns:
            Whether it will be saved: False if it was skipped.

        Raises:
            ValueError: The plain data cannot be written.
            Exception: What the save before has raised.
        """
        if self.busy and self._policy == "skip":
            self.counts.skipped += 1
            return False
        self.wait()
        started = time.perf_counter()
        self.reserve(part)
        copy = Part(
            own=_filled(self._own, part.own),
            common=_filled(self._common, part.common),
            details=plain_copy(part.details, "details"),
            own_details=plain_copy(part.own_details, "own details"),
            replaces=part.replaces,
        )
        self.counts.copying_seconds += time.perf_counter() - started
        self._thread = threading.Thread(
            target=self._save,
            args=(step, copy),
            name="tfdist-checkpoint-writer",
            daemon=True,  # a job that has failed must be able to end
        )
        self._thread.start()
        return True

    def check(self) -> None:
        """Raises what failed in the background, once.

        Raises:
            Exception: What `Store.save` has raised.
        """
        error, self._error = self._error, None
        if error is not None:
            raise error

    def wait(self) -> None:
        """Returns when no save is in flight.

        Raises:
            Exception: What `Store.save` has raised.
        """
        if self._thread is not None:
            if self._thread.is_alive():
                self.counts.waited += 1
            started = time.perf_counter()
            self._thread.join()
            self.counts.waiting_seconds += time.perf_counter() - started
            self._thread = None
        self.check()

    def close(self, *, abort: bool = False) -> None:
        """Waits for the save in flight and lets go of the buffers.

        Args:
            abort: Whether to give up if other ranks' parts are missing, since the job
                has failed; what this raises is then not raised again.

        Raises:
            Exception: What `Store.save` has raised.
        """
        if abort:
            self._store.abort()
        try:
            self.wait()
        except Exception:
            if not abort:
                raise
        finally:
            self._own, self._common = {}, {}

    def _save(self, step: int, part: Part) -> None:
        started = time.perf_counter()
        try:
            _give_way()
            self._store.save(step, part)
            self.counts.saved += 1
        except BaseException as error:
            self._error = error
        self.counts.writing_seconds += time.perf_counter() - started


def _give_way() -> None:
    """Leaves the processors to training, as far as it uses them.

    On two cores that training keeps busy for 90 % of the time, a save of 151 MB takes
    64 ms from it then, and 113 otherwise.
    """
    if sys.platform == "linux":  # where priorities are those of threads
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST)


def _fitting(buffers: Buffers, arrays: Mapping[str, Array]) -> Buffers:
    """Returns a buffer for each array, those that there are where they fit."""
    return {name: _fitting_one(buffers.get(name), arrays[name]) for name in arrays}


def _fitting_one(buffer: Array | None, array: Array) -> Array:
    if buffer is not None and _kind(buffer) == _kind(array):
        return buffer
    fresh: Array = np.empty(array.shape, array.dtype)
    fresh.reshape(-1).view(np.uint8)[...] = 0  # makes the kernel give out the pages
    return fresh


def _kind(array: Array) -> tuple[tuple[int, ...], np.dtype]:
    return array.shape, array.dtype


def _filled(buffers: Buffers, arrays: Mapping[str, Array]) -> Buffers:
    for name, buffer in buffers.items():
        np.copyto(buffer, arrays[name])
    return dict(buffers)
