"""What a collective costs: the latency-bandwidth model, pure arithmetic.

Sending n bytes from one rank to another takes alpha + n * beta seconds: alpha is
the latency, beta the inverse of the bandwidth. All links work at once, in both
directions; adding the numbers up and sharing a host's cores cost nothing here.
The overhead of a link, what Horovod takes until its ranks have agreed to start,
is added once to each collective; it is 0 unless it was measured.

References:
    Hockney, The communication challenge for MPP: Intel Paragon and Meiko CS-2,
    1994 (the model).
    Thakur, Rabenseifner, Gropp, Optimization of collective communication
    operations in MPICH, 2005 (binomial trees, ring all-gather, all-to-all).
    Patarasuk, Yuan, Bandwidth optimal all-reduce algorithms for clusters of
    workstations, 2009 (the ring, and that none sends fewer bytes).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Link:
    """What joins two ranks."""

    latency: float  # seconds until the first byte arrives (alpha)
    bandwidth: float  # bits per second, in each direction
    overhead: float = 0.0  # seconds until a collective starts, whatever its size

    @property
    def seconds_per_byte(self) -> float:
        """The beta of the model."""
        return 8.0 / self.bandwidth


def ring_bytes(size: float, ranks: int) -> float:
    """Returns the bytes that each rank sends in a ring all-reduce: 2(N-1)/N n.

    Args:
        size: Bytes to reduce, n.
        ranks: Ranks that take part, N.

    Example:
        >>> ring_bytes(100e6, 2)
        100000000.0
    """
    return 2.0 * (ranks - 1) / ranks * size


def ring_seconds(size: float, ranks: int, link: Link) -> float:
    """Returns the time of a ring all-reduce: 2(N-1) alpha + 2(N-1)/N n beta.

    A reduce-scatter and an all-gather, each of N-1 steps that move n/N bytes
    (Patarasuk, Yuan, 2009).
    """
    steps = 2 * (ranks - 1)
    transfer = ring_bytes(size, ranks) * link.seconds_per_byte
    return _start(ranks, link) + steps * link.latency + transfer


def tree_seconds(size: float, ranks: int, link: Link) -> float:
    """Returns the time of an all-reduce over a tree: 2 ceil(log2 N) (alpha + n beta).

    A reduction to the root of a binomial tree and a broadcast from it; every
    level moves all n bytes (Thakur, Rabenseifner, Gropp, 2005).
    """
    level = link.latency + size * link.seconds_per_byte
    return _start(ranks, link) + 2 * _levels(ranks) * level


def all_reduce_seconds(size: float, ranks: int, link: Link) -> float:
    """Returns the time of the better of ring and tree."""
    return min(ring_seconds(size, ranks, link), tree_seconds(size, ranks, link))


def all_gather_seconds(size: float, ranks: int, link: Link) -> float:
    """Returns the time until all have n bytes of everyone: (N-1)(alpha + n beta).

    A ring of N-1 steps (Thakur, Rabenseifner, Gropp, 2005). Unlike a reduction's,
    its bytes grow with the number of ranks.
    """
    step = link.latency + size * link.seconds_per_byte
    return _start(ranks, link) + (ranks - 1) * step


def exchange_seconds(size: float, ranks: int, link: Link) -> float:
    """Returns the time of an all-to-all and an all-gather that replace a reduction.

    Each rank receives its N-th part from everyone, adds, and hands the sum round;
    as many steps and bytes as the ring has, for numbers that the network cannot add.
    """
    return _start(ranks, link) + ring_seconds(size, ranks, link)


def crossing_bytes(ranks: int, link: Link) -> float:
    """Returns the size from which on the ring is faster than the tree.

    Returns:
        Bytes; 0.0 where the ring is never slower (2 and 3 ranks).
    """
    latencies = 2 * (ranks - 1) - 2 * _levels(ranks)
    sizes = 2 * _levels(ranks) - 2 * (ranks - 1) / ranks
    if latencies <= 0:
        return 0.0
    return latencies * link.latency / (sizes * link.seconds_per_byte)


def efficiency(step: float, communication: float) -> float:
    """Returns the scaling efficiency: the computing part of a training step.

    The batch of each rank stays the same. It counts no overlap, though gradients of
    large models begin to travel while others are still computed.

    Args:
        step: Seconds that one rank computes.
        communication: Seconds that it then communicates.
    """
    return step / (step + communication)


def _start(ranks: int, link: Link) -> float:
    return link.overhead if ranks > 1 else 0.0


def _levels(ranks: int) -> int:
    return (ranks - 1).bit_length()  # ceil(log2 N)
