"""No compression: every tensor travels as it is."""

from __future__ import annotations

import dataclasses

from tfdist.compression.compressor import Compressor, Shape


@dataclasses.dataclass(frozen=True)
class NoCompression(Compressor):
    """Sends every gradient in full: what the others are measured against.

    Right on every fast link, and wherever the step computes for longer than its
    gradients travel.

    Example:
        >>> tfdist.compression.get("none")
        NoCompression()
    """

    name = "none"
    unbiased = True
    linear = True

    def takes(self, shape: Shape) -> bool:
        """Returns False: whatever no compressor takes travels uncompressed."""
        del shape
        return False
