"""Does this machine compute in 16 bits, or imitate it? And at what price?"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from pathlib import Path

import tensorflow as tf

from tfdist import cluster

_logger = logging.getLogger("tfdist")
# Of x86 (Linux's "flags") and ARM ("Features").
_INSTRUCTIONS = {
    "bfloat16": {"avx512_bf16", "amx_bf16", "bf16"},
    "float16": {"avx512_fp16", "amx_fp16", "asimdhp"},
}
_SIDE = 384  # of the square matrices: 0.1 GFlop for a product
_told: set[str] = set()


def has_instructions(dtype: str, cpuinfo: str) -> bool | None:
    """Returns whether a processor computes in a 16-bit type.

    Args:
        dtype: "float16" or "bfloat16".
        cpuinfo: The text of Linux's /proc/cpuinfo.

    Returns:
        None if the text does not tell.
    """
    for line in cpuinfo.splitlines():
        name, _, words = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return bool(_INSTRUCTIONS[dtype] & set(words.split()))
    return None


def say_if_emulated(dtypes: Collection[str]) -> None:
    """Says once in a process what a 16-bit type costs where it is only imitated."""
    if not cluster.is_chief() or tf.config.list_physical_devices("GPU"):
        return
    for dtype in sorted(set(dtypes) - _told):
        _told.add(dtype)
        path = Path("/proc/cpuinfo")
        text = path.read_text() if path.exists() else ""
        if has_instructions(dtype, text) is False:
            _logger.warning(
                "MixedPrecision: this processor has no instructions for %s, "
                "TensorFlow imitates them: a matrix product takes %.1f times as long "
                "as in float32. It is right for trying out what a GPU or TPU will "
                "compute. HINT: Train in float32 here.",
                dtype,
                slow_down(dtype),
            )


def slow_down(dtype: str, *, repeats: int = 5) -> float:
    """Returns the time of a matrix product in `dtype` / that in float32, measured."""
    return _seconds(dtype, repeats) / _seconds("float32", repeats)


def _seconds(dtype: str, repeats: int) -> float:
    with tf.device("CPU:0"):
        matrix = tf.ones((_SIDE, _SIDE), dtype)
        best = float("inf")
        for _ in range(repeats + 1):  # the first one also starts threads
            start = time.perf_counter()
            tf.linalg.matmul(matrix, matrix).numpy()
            best = min(best, time.perf_counter() - start)
    return best
