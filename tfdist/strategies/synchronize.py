"""State that replicas share: sent from replica 0, averaged, or summed, in one go.

Each function is called outside `strategy.run`, by all processes alike.
"""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfdist.gradients import lanes
from tfdist.gradients.collectives import mean_tensors, sum_tensors
from tfdist.strategies.replica import Replica, this_replica

_GROUP_BYTES = 64 * 2**20


def send_from_first(
    strategy: tf.distribute.Strategy,
    variables: Sequence[Any],
    here: Callable[[], Replica] = this_replica,
) -> None:
    """Gives every replica the values of replica 0, bit for bit.

    Args:
        strategy: The strategy under which the variables were created.
        variables: Keras variables with the same shapes and dtypes on all replicas.
        here: Returns the replica that a function is run by.
    """

    def receive(group: list[Any]) -> None:
        own = [tf.convert_to_tensor(variable.value) for variable in group]
        for variable, value in zip(group, here().of_first(own), strict=True):
            variable.assign(value)

    for group in _groups(variables):
        _run(strategy, functools.partial(receive, group))


def _groups(variables: Sequence[Any]) -> Iterator[list[Any]]:
    """Yields variables that travel together: a model would need its memory again.

    MPI, moreover, counts the numbers of a message in 31 bits.
    """
    group: list[Any] = []
    total = 0
    for variable in variables:
        size = 4 * math.prod(variable.shape)  # at least: bits travel as int32
        if group and total + size > _GROUP_BYTES:
            yield group
            group, total = [], 0
        group.append(variable)
        total += size
    if group:
        yield group


def average(strategy: Any, variables: Sequence[Any]) -> None:
    """Sets each float variable to its mean over all replicas."""

    def replica() -> None:
        values = [tf.convert_to_tensor(variable.value) for variable in variables]
        means = mean_tensors(values, lanes.STATE)
        for variable, mean in zip(variables, means, strict=True):
            variable.assign(mean)

    run_often(strategy, "average", variables, replica)


def sums_of(
    strategy: Any,
    kind: str,
    variables: Sequence[Any],
    replica: Callable[[], list[tf.Tensor]],
) -> list[tf.Tensor]:
    """Returns the sums over all replicas of what a function returns on each.

    Args:
        strategy: The strategy under which the variables were created.
        kind: Names the function, which is traced once for these variables.
        variables: What it reads.
        replica: Called in a replica context.
    """
    totals = run_often(
        strategy, kind, variables, lambda: sum_tensors(replica(), lanes.STATE)
    )
    return [_first(strategy, total) for total in totals]


def sums(strategy: Any, variables: Sequence[Any]) -> list[tf.Tensor]:
    """Returns the sum over all replicas of each variable's replica-local value."""

    def replica() -> list[tf.Tensor]:
        return [tf.convert_to_tensor(variable.value) for variable in variables]

    return sums_of(strategy, "sums", variables, replica)


def gather(strategy: Any, own: np.ndarray, rank: int, size: int) -> np.ndarray:
    """Returns the vectors that the processes pass, [size, n], in order of rank.

    Args:
        strategy: The strategy in force.
        own: This process's vector; length and dtype are equal on all processes.
        rank: This process's number.
        size: The number of processes.
    """
    table = np.zeros((size, len(own)), own.dtype)
    table[rank] = own
    per_process = max(strategy.num_replicas_in_sync // size, 1)

    def replica(numbers: tf.Tensor) -> list[tf.Tensor]:
        return sum_tensors([numbers], lanes.STATE)

    kind = f"gather {len(own)} {own.dtype}"
    (total,) = run_often(strategy, kind, [], replica, tf.constant(table))
    gathered: np.ndarray = _first(strategy, total).numpy()
    return (gathered / per_process).astype(own.dtype) if per_process > 1 else gathered


def gather_integers(strategy: Any, value: int, rank: int, size: int) -> list[int]:
    """Returns the integers that the processes pass, in the order of their ranks."""
    table = gather(strategy, np.array([value], np.int64), rank, size)
    return [int(row[0]) for row in table]


def _program(strategy: Any, replica: Callable[..., Any], *arguments: Any) -> Any:
    """Traces a replica function; `Strategy.run` is TensorFlow's own, past tfdist's."""

    @tf.function(autograph=False)
    def program(*args: Any) -> Any:
        return tf.distribute.Strategy.run(strategy, replica, args=args)

    return program.get_concrete_function(*arguments)


def _run(strategy: Any, replica: Callable[..., Any]) -> Any:
    with tf.init_scope():
        return _program(strategy, replica)()


def run_often(
    strategy: Any,
    kind: str,
    variables: Sequence[Any],
    replica: Callable[..., Any],
    *arguments: Any,
) -> Any:
    """Runs a replica function that was traced at its first use for these variables.

    Args:
        strategy: The strategy under which the variables were created.
        kind: Names the function.
        variables: What it reads.
        replica: Called in a replica context.
        *arguments: For the function.
    """
    programs = _programs.setdefault(strategy, {})
    # A program keeps its variables alive, so their numbers are not given away.
    key = (kind, tuple(id(variable) for variable in variables))
    if key not in programs:
        while len(programs) >= _PROGRAMS_KEPT:
            programs.pop(next(iter(programs)))
        programs[key] = _program(strategy, replica, *arguments)
    return programs[key](*arguments)


_PROGRAMS_KEPT = 16  # of each strategy; each keeps a model's variables alive
_programs: weakref.WeakKeyDictionary[Any, dict[Any, Any]] = weakref.WeakKeyDictionary()


def _first(strategy: tf.distribute.Strategy, value: Any) -> tf.Tensor:
    return strategy.experimental_local_results(value)[0]
