"""How many bytes the gradients of a step bring to each rank, by formula."""

from __future__ import annotations

from tfdist.compression import Fused, NoCompression
from tfdist.gradients.attach import GradientPath
from tfdist.gradients.compressed import CompressedSum, slots_of


def dense_bytes(path: GradientPath, ranks: int) -> float:
    """Returns the bytes of an update whose dense gradients travel as they are."""
    plain = Fused(NoCompression(), slots_of(path.kinds or ()), ranks)
    return plain.bytes_uncompressed()


def bytes_per_step(path: GradientPath | None, ranks: int) -> float:
    """Returns the bytes of a training step, as its gradients travel now.

    Args:
        path: The model's path; None where nothing travels.
        ranks: The replicas.
    """
    if path is None:
        return 0.0
    path = path.method.outer or path
    reduction = path.method.reduction
    if isinstance(reduction, CompressedSum):
        return reduction.fused.bytes_on_wire() / path.steps_per_update
    return dense_bytes(path, ranks) / path.steps_per_update
