"""What a step costs by arithmetic alone: bytes, limits, steps to a loss."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from tfdist.launch.estimate.cost import ring_bytes

Shape = Sequence[int]


def dense_bytes(shapes: Sequence[Shape], ranks: int, each: int = 4) -> float:
    """Returns what each rank sends for gradients of `each` bytes a number."""
    return ring_bytes(each * sum(map(math.prod, shapes)), ranks)


def torch_powersgd_bytes(shapes: Sequence[Shape], ranks: int, rank: int) -> float:
    """Returns what PyTorch's PowerSGD hook sends.

    A tensor is a matrix of its first axis by all others, and goes uncompressed unless
    its factors have half its numbers or fewer (`min_compression_rate=2`).
    """
    numbers = 0
    for shape in shapes:
        size = math.prod(shape)
        factors = (shape[0] + size // shape[0]) * rank if len(shape) > 1 else size
        numbers += factors if 2 * factors < size else size
    return ring_bytes(4 * numbers, ranks)


def wire_seconds(sent: float, rate: float) -> float:
    """Returns how long a link of `rate` bits per second needs for so many bytes."""
    return 8 * sent / rate


def quartiles(seconds: Sequence[float]) -> tuple[float, float, float]:
    """Returns lower quartile, median and upper quartile."""
    if len(seconds) == 1:
        return (seconds[0],) * 3
    low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return low, median, high


def batch_losses(means: Sequence[float]) -> list[float]:
    """Returns each batch's loss from Keras's running means over an epoch."""
    totals = [mean * number for number, mean in enumerate(means, 1)]
    return [now - before for now, before in zip(totals, [0.0, *totals], strict=False)]


def steps_to_loss(losses: Sequence[float], loss: float, batches: int) -> int | None:
    """Returns after how many steps the mean of the last `batches` is below `loss`.

    `batches` is one pass through the data, so the mean is over all examples.
    """
    for step in range(batches, len(losses) + 1):
        if statistics.fmean(losses[step - batches : step]) < loss:
            return step
    return None
