"""The models, each a Keras function in a file of its own, and what they learn."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np

NAMES = ("mlp", "resnet", "transformer")
# A rank sees this many batches again and again: learnt within seconds.
BATCHES = 4
SEED = 7


@dataclass(frozen=True)
class Task:
    """What a model is trained on; its batch lets one core compute 40 to 400 ms."""

    batch: int  # examples of one rank in one step
    learning_rate: float  # of SGD with momentum 0.9
    loss: float  # training is timed until the loss falls below
    steps: int  # that suffice for it without compression, with a margin
    classes: int  # integer labels from 0
    words: int = 0  # of an example, where an embedding looks them up


def task(name: str) -> Task:
    """Returns the task of a model; needs no framework."""
    found: Task = _module(name).TASK
    return found


def build(name: str) -> Any:
    """Returns a new Keras model that puts out logits."""
    return _module(name).build()


def examples(name: str, ranks: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns inputs and labels of all ranks: `BATCHES` global batches in order.

    The same numbers for every method. Each class has a pattern of its own, under
    noise.
    """
    module, random = _module(name), np.random.default_rng(SEED)
    count = BATCHES * ranks * module.TASK.batch
    labels = random.integers(0, module.TASK.classes, count, dtype=np.int64)
    return module.inputs(labels, random), labels


def own_part(array: np.ndarray, rank: int, ranks: int) -> np.ndarray:
    """Returns one rank's rows of every global batch."""
    batches = array.reshape(BATCHES, ranks, -1, *array.shape[1:])
    return batches[:, rank]


def _module(name: str) -> Any:
    return importlib.import_module(f"{__name__}.{name}")
