"""What an experiment is: methods, one setting for all, and the trainings of each.

Nothing is chosen for a method but what it is: all begin with the same weights and, in
batches of one size, see the same images in the same order.
"""

import dataclasses
import itertools
import json
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

SEEDS = 10


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a training goes."""

    folds: int = 5
    units: int = 128  # of each of two hidden layers
    batch: int = 64  # images in a step, over all ranks
    epochs: int = 30
    rate: float = 0.05  # falls to zero along a cosine
    momentum: float = 0.9
    policy: str = "float32"  # of the hidden layers
    loss_scales: int = 0  # of Keras, around the optimizer

    def fingerprint(self) -> int:
        """Return a number that differs where results cannot be compared."""
        return zlib.crc32(json.dumps(dataclasses.asdict(self)).encode())


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to train."""

    title: str
    callback: str = ""  # of tfdist.callbacks; "": plain `fit`
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    changes: dict[str, Any] = dataclasses.field(default_factory=dict)  # of Settings
    # Theory: whether it does not reach the accuracy. None: theory says nothing.
    worse: bool | None = False


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Methods that are compared with the first of them."""

    name: str  # also of its table, and of the page in docs/ unless that has its own
    methods: dict[str, Method]
    settings: Settings = dataclasses.field(default_factory=Settings)
    page: str = ""
    first_seed: int = 0

    @property
    def reference(self) -> str:
        """The name of the method that the others are compared with."""
        return next(iter(self.methods))

    def settings_of(self, method: str) -> Settings:
        """Return the settings of a method's trainings."""
        return dataclasses.replace(self.settings, **self.methods[method].changes)

    def trainings(self, methods: Sequence[str], seeds: int) -> list["Training"]:
        """Return all trainings of some methods, those of one method together."""
        chosen = range(self.first_seed, self.first_seed + seeds)
        folds = range(self.settings.folds)
        return [Training(*each) for each in itertools.product(methods, chosen, folds)]


class Training(NamedTuple):
    """One of the trainings that a method is judged by."""

    method: str
    seed: int
    fold: int  # the one that it is tested on
