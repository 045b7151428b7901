"""What a row may ask about the place where it runs."""

import contextlib
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tensorflow as tf

GLOBAL_BATCH = 16  # examples; 3 ranks share it as 5, 5 and 6


class Rendezvous:
    """Meeting points of the ranks of one machine, made of files.

    The suite must not synchronise with the collectives that it tests.
    """

    def __init__(self, directory: Path, rank: int, size: int) -> None:
        self.directory = directory
        self.rank = rank
        self.size = size
        directory.mkdir(parents=True, exist_ok=True)

    def meet(self, name: str) -> None:
        """Return when every rank has called it with this name."""
        (self.directory / f"{name}.{self.rank}").touch()
        self.wait(lambda: self._arrived(name) == self.size)

    def _arrived(self, name: str) -> int:
        return sum(
            (self.directory / f"{name}.{rank}").exists() for rank in range(self.size)
        )

    @staticmethod
    def wait(condition: Callable[[], bool]) -> None:
        """Poll until true; the worker's watchdog bounds it."""
        while not condition():
            time.sleep(0.005)


@dataclass
class Setting:
    """One row's view of its launch."""

    row: str
    strategy: tf.distribute.Strategy | None  # None: plain Keras, the reference
    rank: int  # of this process
    size: int  # processes, not replicas
    directory: Path  # the same path on every rank, empty at the start of the row
    rendezvous: Rendezvous
    _meetings: int = field(default=0)

    @property
    def replicas(self) -> int:
        """Replicas that share a global batch."""
        return self.strategy.num_replicas_in_sync if self.strategy else 1

    @property
    def distribution(self) -> tf.distribute.Strategy:
        """The strategy, or TensorFlow's default one: for custom training loops."""
        return self.strategy or tf.distribute.get_strategy()

    def scope(self) -> AbstractContextManager:
        """Where models are built and compiled."""
        return self.strategy.scope() if self.strategy else contextlib.nullcontext()

    def attach(self, optimizer: Any) -> None:
        """Give a custom loop's optimizer tfdist's gradient path, as a user of it does.

        Plain Keras and the plain peers have nothing to attach.
        """
        if type(self.strategy).__module__.startswith("tfdist"):
            import tfdist

            tfdist.gradients.attach(optimizer)

    def barrier(self) -> None:
        """Wait for all ranks, for instance until the chief has written a file."""
        self._meetings += 1
        self.rendezvous.meet(f"{self.row}.{self._meetings}")
