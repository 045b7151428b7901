"""How a compressor says what has to travel, without knowing who carries it.

A compressor is a generator: it yields the wires of one round, is handed what came
back, and may let the next round depend on it. Whatever runs it (Horovod, the replica
context, a test that plays all ranks in one process) is an `Exchange`.

Wire dtypes are float32, float16, float64 and int32: the ones that Horovod 0.28.1 and
TensorFlow's collective operations both carry. TensorFlow's gather has neither int8
nor bfloat16, and Horovod's sum has no bfloat16, so smaller types travel as bit
patterns inside int32 and are never summed on the way.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, NamedTuple, Protocol, TypeVar

import tensorflow as tf

SUM, GATHER, ALL_TO_ALL = "sum", "gather", "all_to_all"

Result = TypeVar("Result")


class Wire(NamedTuple):
    """A tensor that has to travel, and how.

    ==========  ==========================  =====================================
    collective  what is sent                what comes back
    ==========  ==========================  =====================================
    sum         a vector                    its sum over the ranks, same shape
    gather      a vector                    [ranks, length], in the order of ranks
    all_to_all  [ranks, length]: row j is   [ranks, length]: row i came from
                for rank j                  rank i
    ==========  ==========================  =====================================

    Wires of one group travel in one buffer, the highest group first, so that it is
    under way while others are still computed. Without groups, bytes decide.
    """

    tensor: tf.Tensor
    collective: str
    group: int = 0


Rounds = Generator[list[Wire], list[tf.Tensor], Result]


class Exchange(Protocol):
    """Who carries the wires of one replica.

    Results of `sum` and `gather` have to be bit-identical on all ranks.
    """

    ranks: int
    rank: int | tf.Tensor
    has_all_to_all: bool

    def sum(self, tensor: tf.Tensor) -> tf.Tensor:
        """Returns the sum of a vector over the ranks."""

    def gather(self, tensor: tf.Tensor) -> tf.Tensor:
        """Returns the ranks' vectors as the rows of a matrix."""

    def all_to_all(self, tensor: tf.Tensor) -> tf.Tensor:
        """Sends row j to rank j and returns the rows received, by sender."""


def perform(rounds: Rounds[Result], exchange: Exchange) -> Result:
    """Runs a generator of rounds to its end and returns its result."""
    try:
        wires = next(rounds)
        while True:
            wires = rounds.send([_exchanged(wire, exchange) for wire in wires])
    except StopIteration as end:
        result: Any = end.value
    return result


def _exchanged(wire: Wire, exchange: Exchange) -> tf.Tensor:
    """Returns what came back, of known shape: gathers forget it in a graph."""
    result = getattr(exchange, wire.collective)(wire.tensor)
    lead = [exchange.ranks] if wire.collective == GATHER else []
    return tf.reshape(result, [*lead, *wire.tensor.shape])


class Payload(NamedTuple):
    """The bytes that one rank hands to the collectives of one kind in a step."""

    collective: str
    bytes: int


def received(payload: Payload, ranks: int) -> float:
    """Returns the bytes that reach one rank over the network.

    Counted for the algorithms that move the least: a ring for sums, and every
    other rank's buffer once for gathers.

    Source: Patarasuk, Yuan, Bandwidth optimal all-reduce algorithms for clusters
    of workstations, JPDC 2009.
    """
    others = ranks - 1
    factor = {SUM: 2 * others / ranks, GATHER: others, ALL_TO_ALL: others / ranks}
    return payload.bytes * factor[payload.collective]
