"""One seed for the whole job: what is equal on all ranks and what differs."""

from __future__ import annotations

_MASK = 0xFFFFFFFFFFFFFFFF  # arithmetic modulo 2**64

_current: int | None = None


def set_seed(seed: int) -> None:
    """Makes a run repeatable; call it with the same seed on every rank.

    Equal on all ranks: Python's, NumPy's and TensorFlow's global seeds, hence
    initial weights, shuffles and every draw of the script itself. They have to be
    equal: ranks that shuffle differently would train on overlapping data.

    Different on every replica: dropout, noise layers and random augmentation
    inside the model, which would otherwise drop the same units of every shard.
    Their seed is `replica_seed(seed, replica)`: the same in every run with the
    same seed and the same number of replicas.

    Args:
        seed: An integer from 0 to 2**32 - 1 (NumPy's limit).

    Raises:
        TypeError: `seed` is not an integer.
        ValueError: `seed` is out of range.

    Example:
        ```python
        tfdist.set_seed(1)
        strategy = tfdist.strategy("auto")
        ```
    """
    global _current
    _check(seed)
    import keras

    keras.utils.set_random_seed(seed)
    _current = seed


def current_seed() -> int | None:
    """Returns the seed of the last `set_seed`, or None before the first."""
    return _current


def replica_seed(seed: int, replica: int) -> int:
    """Mixes a seed and a replica's number into that replica's own seed.

    A sum (`seed + replica`) would give replica 1 of seed 1 the draws of replica 0
    of seed 2. SplitMix64's output function spreads every bit instead.

    Args:
        seed: The job's seed, from 0 to 2**32 - 1.
        replica: The replica's number, from 0.

    Returns:
        An integer from 0 to 2**31 - 1, which every seed argument of TensorFlow
        and Keras accepts.

    Raises:
        TypeError: An argument is not an integer.
        ValueError: An argument is negative or too large.

    References:
        Steele, Lea, Flood, Fast splittable pseudorandom number generators,
        OOPSLA 2014.

    Example:
        >>> replica_seed(1, 0) == replica_seed(1, 0)
        True
        >>> replica_seed(1, 0) == replica_seed(1, 1)
        False
    """
    _check(seed)
    _check(replica, "replica")
    mixed = _split_mix(_split_mix(seed) ^ replica)
    return mixed >> 33  # the upper bits are the best mixed ones


def _split_mix(state: int) -> int:
    state = (state + 0x9E3779B97F4A7C15) & _MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
    return state ^ (state >> 31)


def _check(value: int, name: str = "seed") -> None:
    problem = f"{name} must be an integer from 0 to 2**32 - 1. Received: {value!r}."
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{problem}\nHINT: Pass int({name}).")
    if not 0 <= value < 2**32:
        raise ValueError(f"{problem}\nHINT: Use {name} % 2**32.")
