"""A step whose gradients are not finite: seen in time, and left without a trace."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tfdist.compression.buffers import wire_dtype

State = dict[str, tf.Tensor]


def all_finite(tensors: Sequence[tf.Tensor], ranks: int = 1) -> tf.Tensor:
    """Returns whether all tensors are finite, also if several ranks add such.

    Told by their sums: one pass over the memory, where testing every element takes
    three. A sum that overflows counts as well; such a step would not survive anyway.
    """
    sums = []
    for tensor in tensors:
        if tensor.dtype.is_floating:
            wide = wire_dtype(tensor.dtype)
            total = ranks * tf.reduce_sum(tf.cast(tensor, wide))
            sums.append(tf.math.is_finite(total))
    return tf.reduce_all(tf.stack(sums)) if sums else tf.constant(True)


def harmless_if(finite: tf.Tensor, tensors: list[tf.Tensor]) -> list[tf.Tensor]:
    """Returns the tensors; or zeros, safe to compute with, if something is not finite.

    Sorting and factorising NaN has no defined result, and may not even end.
    """
    return list(
        tf.cond(
            finite,
            lambda: [tf.identity(tensor) for tensor in tensors],
            lambda: [tf.zeros(t.shape, t.dtype) for t in tensors],
        )
    )


def taken_if(
    finite: tf.Tensor, totals: list[tf.Tensor], new: State, state: State
) -> tuple[list[tf.Tensor], State]:
    """Returns totals and the new state; or zeros, and the state as it was."""
    names = list(state)
    # A condition, not a selection: it copies nothing.
    results, values = tf.cond(
        finite,
        lambda: ([tf.identity(t) for t in totals], [new[name] for name in names]),
        lambda: (
            [tf.zeros(t.shape, t.dtype) for t in totals],
            [state[name] for name in names],
        ),
    )
    return results, dict(zip(names, values, strict=True))
