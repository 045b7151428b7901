"""Which tensors of two checkpoints differ, and by how much."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tfdist.checkpoint.directory import Checkpoint
from tfdist.checkpoint.layout import Array


def compare(first: Checkpoint, second: Checkpoint) -> tuple[str, bool]:
    """Returns the differences in words, and whether all tensors are equal.

    Equal means bit for bit: two NaN of the same bits are, 0.0 and -0.0 are not.
    """
    lines, count, differing = [], 0, 0
    for part, (one, other) in _parts(first, second).items():
        names = sorted({*one, *other})
        found = {name: difference(one.get(name), other.get(name)) for name in names}
        count += len(names)
        differing += sum(text is not None for text in found.values())
        lines += [f"{part} {n}: {text}" for n, text in found.items() if text]
    lines += _plain(first, second)
    steps = f"step {first.manifest.step} and step {second.manifest.step}"
    lines.append(f"{steps}: {differing} of {count} tensors differ")
    return "\n".join(lines), not differing


def difference(one: Array | None, other: Array | None) -> str | None:
    """Returns how two arrays differ; None if they are equal bit for bit."""
    if one is None or other is None:
        return f"only in the {'second' if one is None else 'first'}"
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return f"{one.dtype} {one.shape} and {other.dtype} {other.shape}"
    bits, other_bits = (each.reshape(-1).view(np.uint8) for each in (one, other))
    if np.array_equal(bits, other_bits):
        return None
    unequal = (bits != other_bits).reshape(one.size, -1)
    wide = np.complex128 if one.dtype.kind == "c" else np.float64
    with np.errstate(all="ignore"):
        gaps = np.abs(one.astype(wide) - other.astype(wide))
        largest = float(np.max(np.nan_to_num(gaps, nan=0.0, posinf=np.inf)))
        size = float(np.max(np.abs(np.nan_to_num(one.astype(wide)))))
    relative = f", relative to the largest {largest / size:.1e}" if size else ""
    count = int(unequal.any(axis=1).sum())
    return f"{count} of {one.size} differ, by at most {largest:.1e}{relative}"


def _parts(
    first: Checkpoint, second: Checkpoint
) -> dict[str, tuple[dict[str, Array], dict[str, Array]]]:
    most = max(len(first.ranks), len(second.ranks))
    parts = {"common": (first.common, second.common)}
    for rank in range(most):
        parts[f"rank {rank}"] = (_rank(first, rank), _rank(second, rank))
    return parts


def _rank(checkpoint: Checkpoint, rank: int) -> dict[str, Array]:
    return checkpoint.ranks[rank] if rank < len(checkpoint.ranks) else {}


def _plain(first: Checkpoint, second: Checkpoint) -> Iterator[str]:
    one, other = first.manifest.details, second.manifest.details
    for name in sorted({*one, *other}):
        if repr(one.get(name)) != repr(other.get(name)):
            values = [ascii(each.get(name, "nothing"))[:60] for each in (one, other)]
            yield f"details {ascii(name)[1:-1]}: {values[0]} and {values[1]}"
