"""From measured times of all-reduces to latency and bandwidth."""

from __future__ import annotations

from collections.abc import Sequence

from tfdist.launch.estimate.cost import Link, ring_bytes


def fit_line(samples: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Returns (seconds at no bytes, seconds per byte) of the line nearest the samples.

    Least squares of the relative deviations: the sizes span decades, and without
    weights the largest message alone would decide.

    Args:
        samples: (bytes, seconds), of at least two sizes, seconds > 0.

    Example:
        >>> fit_line([(0.0, 1.0), (10.0, 2.0)])
        (1.0, 0.1)
    """
    weights = [1.0 / seconds**2 for _, seconds in samples]
    total = sum(weights)
    size = sum(w * n for w, (n, _) in zip(weights, samples, strict=True)) / total
    time = sum(w * t for w, (_, t) in zip(weights, samples, strict=True)) / total
    covariance = sum(
        w * (n - size) * (t - time) for w, (n, t) in zip(weights, samples, strict=True)
    )
    variance = sum(
        w * (n - size) ** 2 for w, (n, _) in zip(weights, samples, strict=True)
    )
    slope = covariance / variance
    return time - slope * size, slope


def fit_link(
    samples: Sequence[tuple[float, float]], ranks: int, latency: float
) -> Link:
    """Returns the link whose ring all-reduce would take the measured times.

    The intercept of the line is 2(N-1) latencies and what Horovod takes to start a
    collective. One number of ranks cannot tell them apart, so the latency is given,
    and the rest, which does not grow with N, is the overhead.

    Args:
        samples: (bytes, seconds) of all-reduces.
        ranks: How many ranks took part; at least 2.
        latency: Seconds of one message, at most; less where less was measured.

    Raises:
        ValueError: If larger messages took no longer, or there were none.
    """
    if len(samples) < 2:
        raise ValueError(f"only one size was measured: {samples}")
    intercept, slope = fit_line(samples)
    if slope <= 0.0:
        raise ValueError(f"larger messages took no longer: {samples}")
    steps = 2 * (ranks - 1)
    intercept = max(intercept, 0.0)
    latency = min(latency, intercept / steps)
    return Link(
        latency=latency,
        bandwidth=8.0 * ring_bytes(1.0, ranks) / slope,
        overhead=max(intercept - steps * latency, 0.0),
    )
