"""A machine that is taken away: the signal, and all ranks stopping after it.

Schedulers say so some seconds ahead: SIGTERM (Kubernetes, clouds, `tfdist run`, Slurm's
scancel) or, where a script asks for it, SIGUSR1 (`sbatch --signal=USR1@60`).
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

EXIT_CODE = 143  # 128 + SIGTERM, as shells report it; after SIGUSR1, too
_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Preemption:
    """Waits for the signal, in the main thread, from `install` to `remove`.

    The handler notes the signal and does nothing else: it may run between any two
    lines of Python. Python runs it when a call into TensorFlow has returned, so the
    first step's trace, or an execution of many steps, is ended first.

    Args:
        stops: Called at every look with whether this rank has to stop; returns
            whether all do. `strategy.stops` under a strategy of tfdist, else `bool`.

    Example:
        ```python
        preemption = Preemption(strategy.stops)
        preemption.install()
        try:
            for batch in batches:
                step(batch)
                if preemption.due():
                    save()
                    raise SystemExit(EXIT_CODE)
        finally:
            preemption.remove()
        ```
    """

    def __init__(self, stops: Callable[[bool], bool]) -> None:
        self._stops = stops
        self._received: int | None = None  # the first signal
        self._served = False
        self._former: dict[int, Any] = {}

    def install(self) -> None:
        """Takes over the signals; elsewhere than in the main thread it cannot."""
        if self._former or threading.current_thread() is not threading.main_thread():
            return
        for number in _SIGNALS:
            self._former[number] = signal.signal(number, self._note)

    def due(self) -> bool:
        """Looks up: returns whether all ranks stop here, the same on all of them.

        All ranks call it at the same places, equally often.

        Raises:
            TfdistError: See `Ledger.look`.
        """
        if self._stops(self._received is not None):
            self._served = True
        return self._served

    def remove(self) -> None:
        """Gives the signals back; one that has stopped nothing is raised again."""
        for number, handler in self._former.items():
            # None: a handler that is not Python's and cannot be set from here.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._former = {}
        received, self._received = self._received, None
        if received is not None and not self._served:
            signal.raise_signal(received)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._received is None:
            self._received = number
