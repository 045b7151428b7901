"""One bit an element."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from tfdist.compression import bits
from tfdist.compression.compressor import Compressor, Item, Outcome, Place, Shape
from tfdist.compression.rounds import GATHER, Payload, Rounds, Wire
from tfdist.compression.shapes import matrix_shape


@dataclasses.dataclass(frozen=True)
class Sign(Compressor):
    """Sends the sign of every element, and one scale: the mean magnitude.

    Error feedback is required: without it, signs alone diverge or stop at a wrong
    place even on convex problems.

    A bit has no third state for zero. Rows and columns that are zero throughout
    (words that are not in the batch, dead units, constant inputs) are therefore
    marked, by a bit each, and stay zero; a single zero among others is sent as +scale
    and corrected by error feedback in the following steps.

    Bits travel packed, 32 in an int32, and are gathered: what arrives grows with the
    number of ranks, up to 64 of which this moves less than no compression.

    References:
        Karimireddy, Rebjock, Stich, Jaggi, Error feedback fixes SignSGD and other
        gradient compression schemes, ICML 2019.

    Example:
        >>> tfdist.compression.get("sign")
        Sign()
    """

    name = "sign"
    contractive = True
    feedback = True
    needs_feedback = True

    def rounds(self, items: Sequence[Item], place: Place) -> Rounds[list[Outcome]]:
        """One round: the gather."""
        wires = [_encode(_matrix(item.tensor)) for item in items]
        gathered = yield [Wire(wire, GATHER) for wire in wires]
        outcomes = []
        for item, wire, packed in zip(items, wires, gathered, strict=True):
            size = matrix_shape(tuple(item.tensor.shape))
            own = _decode(wire, *size)
            # In the order of the ranks, so that all ranks round alike.
            total = _decode(packed[0], *size)
            for rank in range(1, place.ranks):
                total += _decode(packed[rank], *size)
            outcomes.append(item.outcome(total, own))
        return outcomes

    def payload(
        self, shapes: Sequence[Shape], ranks: int, has_all_to_all: bool
    ) -> list[Payload]:
        """A bit for each element, row and column, and four bytes for the scale."""
        del ranks, has_all_to_all
        total = 0
        for shape in shapes:
            rows, columns = matrix_shape(shape)
            total += bits.words(rows * columns) + bits.words(rows + columns) + 1
        return [Payload(GATHER, 4 * total)]


def _matrix(tensor: tf.Tensor) -> tf.Tensor:
    return tf.reshape(tensor, matrix_shape(tuple(tensor.shape)))


def _encode(matrix: tf.Tensor) -> tf.Tensor:
    used = tf.not_equal(matrix, 0.0)
    rows, columns = tf.reduce_any(used, axis=1), tf.reduce_any(used, axis=0)
    count = tf.math.count_nonzero(rows, dtype=tf.float32) * tf.math.count_nonzero(
        columns, dtype=tf.float32
    )
    # Divided first: the sum of large gradients would overflow.
    scale = tf.reduce_sum(tf.math.divide_no_nan(tf.abs(matrix), count))
    return tf.concat(
        [
            bits.pack_bits(tf.reshape(matrix >= 0.0, [-1])),
            bits.pack_bits(tf.concat([rows, columns], 0)),
            tf.bitcast(scale, tf.int32)[tf.newaxis],
        ],
        0,
    )


def _decode(packed: tf.Tensor, rows: int, columns: int) -> tf.Tensor:
    end = bits.words(rows * columns)
    signs = tf.cast(2 * bits.unpack_bits(packed[:end], rows * columns) - 1, tf.float32)
    used = tf.cast(bits.unpack_bits(packed[end:-1], rows + columns), tf.float32)
    scale = tf.bitcast(packed[-1], tf.float32)
    by_row = scale * used[:rows, tf.newaxis]
    return tf.reshape(signs, [rows, columns]) * by_row * used[rows:]
