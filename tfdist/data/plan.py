"""Which process reads which files, and how many rows it adds to each step.

Pure functions of the numbers of examples per file. Every process computes the whole
plan, so all know that they make the same number of steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tfdist.data.sharding import count_steps, split_sizes

SHARD_MODES = ("auto", "files", "records")
# The process with the most rows sets the time of every step. Beyond a quarter more
# than its even share, reading the files of the others costs less than waiting; and
# where what is dropped grows with the differences, so much is lost at most.
_MOST_UNEVEN = 1.25


class Plan(NamedTuple):
    """One epoch over all processes; every process holds the same plan."""

    files: list[list[int]]  # for each process the indices of the files it opens
    sizes: np.ndarray  # int64 [steps, processes, replicas]: rows of each replica
    by_files: bool  # False: every process opens every file and keeps its own rows

    @property
    def steps(self) -> int:
        """Steps in the epoch, the same on every process."""
        return len(self.sizes)

    @property
    def uniform_size(self) -> int | None:
        """Rows of every replica in every step if they are all equal, else None."""
        first = int(self.sizes.flat[0])
        return first if first and bool((self.sizes == first).all()) else None


def make_plan(
    counts: Sequence[int],
    global_batch_size: int,
    processes: int = 1,
    replicas: int = 1,
    *,
    drop_remainder: bool = False,
    shard: str = "auto",
) -> Plan:
    """Plans one epoch.

    By records, step s is rows `[s * G, (s + 1) * G)` of the one-process order,
    split between the replicas. By files, every process adds to each step in
    proportion to what its files hold, so that all of them finish together; the rows
    of a step still add up to the global batch size.

    Args:
        counts: Examples in each file.
        global_batch_size: Examples in one step over all processes.
        processes: Processes that read.
        replicas: Replicas that each process feeds.
        drop_remainder: Whether to leave out what does not fill a whole batch. By
            files, each replica then gets the same number of rows in every step, and
            what a process holds beyond the steps of the one that holds least is left
            out of every epoch.
        shard: "files", "records", or "auto": by files unless some process would hold
            nothing or more than 5/4 of an even share, or `drop_remainder` would leave
            less than 4/5 of the steps by records.

    Raises:
        ValueError: An unknown mode, too few files to shard by files, or no step.

    Example:
        >>> plan = make_plan([5, 2, 2], global_batch_size=5, processes=2)
        >>> plan.files, plan.sizes[:, :, 0].tolist()
        ([[0], [1, 2]], [[3, 2], [2, 2]])
    """
    if shard not in SHARD_MODES:
        raise ValueError(
            f"Unknown shard mode. Received: {shard!r}. Expected: one of {SHARD_MODES}."
            '\nHINT: Leave shard="auto".'
        )
    files = assign_files(counts, processes)
    owned = [sum(counts[index] for index in mine) for mine in files]
    if shard == "files" and 0 in owned:
        raise ValueError(
            f'shard="files" needs examples for each of the {processes} processes. '
            f"Received: {len(counts)} files with {list(counts)} examples.\n"
            f'HINT: Write at least {processes} files, or leave shard="auto".'
        )
    examples = sum(counts)
    even = min(owned) > 0 and max(owned) * processes <= _MOST_UNEVEN * examples
    steps = count_steps(examples, global_batch_size, drop_remainder)
    ranks = (processes, replicas)
    whole = np.reshape(split_sizes(global_batch_size, processes * replicas), ranks)
    # A process with no row in a whole batch does not limit the steps.
    rows = whole.sum(axis=1)
    common = min(o // r for o, r in zip(owned, rows, strict=True) if r)
    if drop_remainder:
        even = even and steps <= _MOST_UNEVEN * common
    by_files = processes > 1 and (shard == "files" or (shard == "auto" and even))
    if by_files and drop_remainder:
        steps = common
        sizes = np.broadcast_to(whole, (steps, *ranks))
    elif by_files:
        batches = [global_batch_size] * (steps - 1)
        shares = proportional_shares(owned, [*batches, examples - sum(batches)])
        sizes = np.array([[split_sizes(s, replicas) for s in row] for row in shares])
    else:
        files = [list(range(len(counts)))] * processes
        sizes = np.array(np.broadcast_to(whole, (steps, *ranks)))
        rest = examples - (steps - 1) * global_batch_size
        if steps and rest < global_batch_size:
            sizes[-1] = np.reshape(split_sizes(rest, processes * replicas), ranks)
    if steps == 0:
        raise ValueError(
            "The data holds not one batch. "
            f"Received: {examples} examples in {len(counts)} files, global batch "
            f"size {global_batch_size}, drop_remainder={drop_remainder}. "
            "Expected: at least one step.\n"
            "HINT: Check the files, or pass a smaller global_batch_size."
        )
    return Plan(files, sizes, by_files)


def assign_files(counts: Sequence[int], processes: int) -> list[list[int]]:
    """Gives each process files of about the same number of examples.

    Longest file first, always to the process with the fewest examples so far (Graham
    1969: at most a third above the optimum).

    Args:
        counts: Examples in each file.
        processes: Processes to share them.

    Returns:
        For each process the ascending indices of its files.

    Example:
        >>> assign_files([5, 3, 2], processes=2)
        [[0], [1, 2]]
    """
    files: list[list[int]] = [[] for _ in range(processes)]
    loads = [0] * processes
    for index in sorted(range(len(counts)), key=lambda i: (-counts[i], i)):
        lightest = loads.index(min(loads))
        files[lightest].append(index)
        loads[lightest] += counts[index]
    return [sorted(mine) for mine in files]


def proportional_shares(owned: Sequence[int], batches: Sequence[int]) -> np.ndarray:
    """Deals global batches from several owners, all of whom run out together.

    Example j of an owner of n falls due at time `(j + 1/2) / n`; batches are cut from
    all examples in the order of their times. Takes 32 bytes of memory an example,
    while it runs.

    Args:
        owned: Examples that each process holds.
        batches: Rows of each step; the same sum as `owned`.

    Returns:
        An int64 array of shape `[steps, processes]`; its rows sum to `batches` and its
        columns to `owned`.

    Example:
        >>> proportional_shares([6, 3], [4, 4, 1]).tolist()
        [[3, 1], [2, 2], [1, 0]]
    """
    due = np.concatenate([(np.arange(n) + 0.5) / n for n in owned])
    owner = np.repeat(np.arange(len(owned)), owned)[np.argsort(due, kind="stable")]
    step = np.repeat(np.arange(len(batches)), batches)
    cells = np.bincount(step * len(owned) + owner, minlength=len(batches) * len(owned))
    return cells.reshape(len(batches), len(owned))
