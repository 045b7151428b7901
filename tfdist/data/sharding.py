"""Which replica trains on which example of in-memory data: pure index mathematics.

Everything here is a function of its arguments alone, so that every process computes
the same answer without asking another one.
"""

from __future__ import annotations

import itertools

import numpy as np

_KEY_LIMIT = 2**64  # Philox is keyed by two unsigned 64-bit words


def split_sizes(rows: int, replicas: int) -> list[int]:
    """Splits a global batch into contiguous parts, one a replica.

    Replica r of N takes rows `n * r // N` to `n * (r + 1) // N`, as the strategies
    do with the batches of a dataset. Sizes differ by one at most; a replica gets no
    rows if there are fewer of them than replicas.

    Args:
        rows: Examples in the global batch, 0 or more.
        replicas: Replicas that share it, at least 1.

    Returns:
        The number of rows of replica 0, 1, ...; their sum is `rows`.

    Raises:
        ValueError: `rows` is negative or `replicas` is less than 1.

    Example:
        >>> split_sizes(7, 3)
        [2, 2, 3]
    """
    _at_least("rows", rows, 0)
    _at_least("replicas", replicas, 1)
    ends = [rows * (replica + 1) // replicas for replica in range(replicas)]
    return [end - start for start, end in itertools.pairwise([0, *ends])]


def count_steps(examples: int, global_batch_size: int, drop_remainder: bool) -> int:
    """Returns the number of global batches in one epoch.

    Args:
        examples: Examples over all replicas.
        global_batch_size: Examples in one step over all replicas.
        drop_remainder: Whether a smaller last batch is left out.

    Raises:
        ValueError: `examples` is negative or `global_batch_size` is less than 1.

    Example:
        >>> count_steps(10, 4, drop_remainder=False)
        3
    """
    _at_least("examples", examples, 0)
    _at_least("global_batch_size", global_batch_size, 1)
    whole, rest = divmod(examples, global_batch_size)
    return whole + (rest > 0 and not drop_remainder)


def permutation(examples: int, seed: int, epoch: int) -> np.ndarray:
    """Returns the order of the examples in one epoch.

    It ranks the raw output of Philox, a counter-based generator keyed by
    `(seed, epoch)`: the same on every machine and in every release of NumPy (which
    promises that for raw bits, not for `Generator.permutation`), and epoch 100
    costs no more than epoch 0.

    Args:
        examples: How many there are.
        seed: The job's seed, from 0 to 2**64 - 1; the same on every process.
        epoch: Number of the epoch, from 0.

    Returns:
        An int64 array of shape `[examples]` with every index once.

    Raises:
        ValueError: An argument is out of range.

    References:
        Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011.

    Example:
        >>> sorted(permutation(4, seed=1, epoch=0).tolist())
        [0, 1, 2, 3]
    """
    _at_least("examples", examples, 0)
    for name, value in (("seed", seed), ("epoch", epoch)):
        if not 0 <= value < _KEY_LIMIT:
            raise ValueError(
                f"{name} must be an integer from 0 to 2**64 - 1. Received: {value}.\n"
                f"HINT: Use {name} % 2**64."
            )
    generator = np.random.Philox(key=np.array([seed, epoch], np.uint64))
    return np.argsort(generator.random_raw(examples), kind="stable")


def replica_indices(
    examples: int,
    global_batch_size: int,
    replicas: int,
    replica: int,
    step: int,
    order: np.ndarray | None = None,
) -> np.ndarray:
    """Returns which examples a replica trains on in one step of an epoch.

    Args:
        examples: Examples over all replicas.
        global_batch_size: Examples in one step over all replicas.
        replicas: Number of replicas.
        replica: The replica asked about, from 0.
        step: Number of the step within the epoch, from 0.
        order: The epoch's `permutation`; None keeps the order of the data.

    Returns:
        An array of indices; empty where the last batch leaves the replica nothing.

    Raises:
        ValueError: An argument is out of range, or `order` has another length.

    Example:
        >>> [replica_indices(5, 4, 2, replica, step=1).tolist() for replica in (0, 1)]
        [[], [4]]
    """
    steps = count_steps(examples, global_batch_size, drop_remainder=False)
    _within("step", step, steps)
    _within("replica", replica, replicas)
    if order is not None and len(order) != examples:
        raise ValueError(
            f"order must name each of the {examples} examples once. "
            f"Received: {len(order)} indices.\n"
            "HINT: Pass tfdist.data.permutation(examples, seed, epoch)."
        )
    first = step * global_batch_size
    sizes = split_sizes(min(global_batch_size, examples - first), replicas)
    first += sum(sizes[:replica])
    last = first + sizes[replica]
    return np.arange(first, last) if order is None else order[first:last]


def _at_least(name: str, value: int, smallest: int) -> None:
    if value < smallest:
        raise ValueError(
            f"{name} must be at least {smallest}. Received: {value}.\n"
            f"HINT: Pass {name}={smallest} or more."
        )


def _within(name: str, value: int, size: int) -> None:
    if not 0 <= value < size:
        raise ValueError(
            f"{name} must be from 0 to {size - 1}. Received: {value}.\n"
            f"HINT: There are {size}, counted from 0."
        )
