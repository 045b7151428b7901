"""One order of the examples on all ranks."""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import context

from tfdist.errors import explain

_drawn: int | None = None  # the seed that no script has set


def shuffle_seeds(dataset: tf.data.Dataset) -> list[tuple[int, int]]:
    """Returns the seeds of every `shuffle` in a dataset; (0, 0) is a random one."""
    seeds = [seeds for source in dataset._inputs() for seeds in shuffle_seeds(source)]
    if hasattr(dataset, "_seed") and hasattr(dataset, "_seed2"):
        seeds.append((int(dataset._seed), int(dataset._seed2)))
    return seeds


def refuse_random_order(dataset: tf.data.Dataset) -> None:
    """Raises ValueError if every rank would shuffle a dataset in an order of its own.

    Each rank takes its rows of every global batch: of different batches, that would
    be one example on two ranks and another on none.
    """
    if (0, 0) in shuffle_seeds(dataset):
        raise ValueError(
            explain(
                "The dataset is shuffled differently on every rank",
                received="dataset.shuffle() without a seed",
                expected="one order on all ranks, of which each takes its rows",
                hint="Call tfdist.set_seed(1) before building the dataset, or "
                "dataset.shuffle(buffer_size, seed=1).",
            )
        )


def settle_global_seed(strategy: Any) -> None:
    """Gives all ranks one random seed, where the script has set none so far."""
    global _drawn
    own = context.global_seed()
    seeds = strategy.gather_integers(-1 if own is None else own)
    if seeds.count(-1) == len(seeds):
        _drawn = _random_seed_of_first(strategy)
        tf.random.set_seed(_drawn)


def _random_seed_of_first(strategy: Any) -> int:
    return strategy.gather_integers(random.SystemRandom().getrandbits(31))[0]


@contextlib.contextmanager
def shared_seed(strategy: Any) -> Iterator[None]:
    """Gives all ranks rank 0's global TensorFlow seed, from which `fit` shuffles.

    Keras shuffles arrays on every rank for itself; each rank then takes its rows of
    the global batch. With different seeds two ranks would train on the same example
    and none on another. A rank's own seed returns afterwards. So it is with Python's
    `random`, with which Keras shuffles the batches of a PyDataset.

    Args:
        strategy: The strategy that connects the ranks; all of them call this.
    """
    own = context.global_seed()
    first = strategy.gather_integers(-1 if own is None else own)[0]
    if first == -1:
        first = _random_seed_of_first(strategy)
    with seeded(first), _random_of_first(strategy):
        yield


@contextlib.contextmanager
def _random_of_first(strategy: Any) -> Iterator[None]:
    """Sets Python's `random` as on rank 0 for a while, unless it is so already."""
    version, words, spare = own = random.getstate()
    numbers = [*words, math.nan if spare is None else spare]
    *words, spare = strategy.gather_numbers(numbers)[0].tolist()
    first = version, tuple(map(int, words)), None if math.isnan(spare) else spare
    if first == own:
        yield
        return
    random.setstate(first)
    try:
        yield
    finally:
        random.setstate(own)


@contextlib.contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Sets TensorFlow's global seed for a while."""
    own = context.global_seed()
    if seed == own:  # setting it would begin the draws from it anew
        yield
        return
    tf.random.set_seed(seed)
    try:
        yield
    finally:
        tf.random.set_seed(own)


def has_random_order(dataset: tf.data.Dataset) -> bool:
    """Returns whether a dataset is shuffled differently in every run of the script."""
    return any(
        seeds == (0, 0) or (_drawn is not None and seeds[0] == _drawn)
        for seeds in shuffle_seeds(dataset)
    )
