"""Saving in the background: one thread, one save in flight, buffers that are reused."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import numpy as np

from tfdist.checkpoint.store import Part, Store
from tfdist.checkpoint.tensors import Array


class Writer:
    """Copies a state and writes the copy while training goes on.

    Args:
        store: Where to.
        policy: What `submit` does while a save is in flight: "wait" for it, or "skip".
    """

    def __init__(self, store: Store, policy: str = "wait") -> None:
        self._store = store
        self._policy = policy
        self._buffers: dict[str, Array] = {}
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self.skipped = 0

    def submit(self, step: int, part: Part) -> bool:
        """Takes a copy and returns; False if it was skipped."""
        if self._thread is not None and self._thread.is_alive():
            if self._policy == "skip":
                self.skipped += 1
                return False
        self.wait()
        copy = Part(
            own=self._copy("own", part.own),
            common=self._copy("common", part.common),
            details=dict(part.details),
            own_details=dict(part.own_details),
        )
        self._thread = threading.Thread(
            target=self._run, args=(step, copy), name="tfdist-checkpoint", daemon=True
        )
        self._thread.start()
        return True

    def check(self) -> None:
        """Raises here what failed in the background."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def wait(self) -> None:
        """Returns when nothing is in flight; raises what failed."""
        if self._thread is not None:
            self._thread.join()
        self.check()

    def close(self, abort: bool = False) -> None:
        """Waits for what is in flight, and raises what failed."""
        self.wait()

    def _copy(self, kind: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
        copies = {}
        for name in arrays:
            array = arrays[name]
            key = f"{kind}/{name}"
            buffer = self._buffers.get(key)
            if (
                buffer is None
                or buffer.shape != array.shape
                or buffer.dtype != array.dtype
            ):
                buffer = self._buffers[key] = np.empty_like(array, order="C")
            np.copyto(buffer, array)
            copies[name] = buffer
        return copies

    def _run(self, step: int, part: Part) -> None:
        try:
            self._store.save(step, part)
        except BaseException as error:
            self._error = error
