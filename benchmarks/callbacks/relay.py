"""Several `fit`s in one process, of which one at a time makes a few steps.

What else a machine does changes from second to second, so what is to be compared takes
turns many times a second.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import keras


class Relay:
    """Hands a baton round; who does not hold it waits.

    Args:
        runners: How many there are; they hold the baton in order of their numbers.
    """

    def __init__(self, runners: int) -> None:
        self._running = list(range(runners))
        self._changed = threading.Condition()
        self._failure: BaseException | None = None

    def wait(self, runner: int) -> None:
        """Waits for the baton.

        Raises:
            RuntimeError: Another runner has failed, which is the cause.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._failure is not None or self._running[0] == runner
            )
            if self._failure is not None:
                raise RuntimeError("another fit has failed") from self._failure

    def hand_over(self) -> None:
        """Gives the baton to the next one, and goes to the end of the line."""
        with self._changed:
            self._running.append(self._running.pop(0))
            self._changed.notify_all()

    def leave(self, failure: BaseException | None = None) -> None:
        """Gives the baton to the next one for good."""
        with self._changed:
            self._running.pop(0)
            self._failure = self._failure or failure
            self._changed.notify_all()


class Pace(keras.callbacks.Callback):
    """Runs a `fit` in turns with others, and measures its epochs without the others'.

    It stands first in the list, so that the other callbacks' work is measured, with
    that at the end of an epoch.

    Args:
        relay: What all of them share.
        runner: The number of this one.
        block: Steps that it makes while it holds the baton.

    Attributes:
        epochs: Seconds of each epoch, from its first step to the next one's.
    """

    def __init__(self, relay: Relay, runner: int, block: int) -> None:
        super().__init__()
        self.epochs: list[float] = []
        self._relay, self._runner, self._block = relay, runner, block
        self._made = 0
        self._spent = 0.0
        self._since = time.perf_counter()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Ends a block, waits, and begins the next one."""
        if self._made % self._block == 0:
            self._spent += time.perf_counter() - self._since
            if batch == 0:
                self.epochs.append(self._spent)
                self._spent = 0.0
            self._relay.hand_over()
            self._relay.wait(self._runner)
            self._since = time.perf_counter()
        self._made += 1
