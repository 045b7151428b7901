"""Low-rank factors of every matrix."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfdist.compression.buffers import groups_of
from tfdist.compression.compressor import (
    Compressor,
    Item,
    Outcome,
    Place,
    Shape,
    draw_seed,
)
from tfdist.compression.orthogonal import orthonormal, refreshed
from tfdist.compression.randomk import check_wire, on_wire
from tfdist.compression.rounds import SUM, Payload, Rounds, Wire
from tfdist.compression.shapes import matrix_shape


@dataclasses.dataclass(frozen=True)
class PowerSGD(Compressor):
    """Sends two thin factors of every matrix, found by one power iteration a step.

    For a gradient M of n x m: P = sum of M Q, made orthonormal; Q = sum of M^T P; the
    update is P Q^T. Both products are linear in M, so they are summed on the way and
    their bytes do not grow with the number of ranks. Beginning with the Q of the step
    before, the iteration follows the gradient's largest directions.

    Factors are kept as their transposes, [rank, n]: with the matrix on the right,
    TensorFlow's products (oneDNN, 2.21) take two thirds of the time.

    Vectors, and matrices with too little to save, travel uncompressed in the buffer
    of the first round. Start with rank 4 (1 or 2 for convolutional networks, up to 32
    for language models), raise it if the accuracy falls.

    Args:
        rank: The number of columns of both factors.
        min_compression_rate: Compress where factors are this many times smaller.
        warm_start: Begin with the last step's Q; else with a random one.
        alternate: One collective a step instead of two: P and Q take turns, each
            beginning with the other's last value.
        wire: "float32" or "float16"; error feedback covers what the cast loses.

    Raises:
        ValueError: A parameter is out of range.

    References:
        Vogels, Karimireddy, Jaggi, PowerSGD: practical low-rank gradient compression
        for distributed optimization, NeurIPS 2019. For `alternate`: Zhang et al.,
        Evaluation and optimization of gradient compression for distributed deep
        learning (ACP-SGD), ICDCS 2023.

    Example:
        >>> compressor = tfdist.compression.get("powersgd", rank=4)
        >>> compressor.takes((1024, 1024)), compressor.takes((10, 10))
        (True, False)
    """

    rank: int = 4
    min_compression_rate: float = 2
    warm_start: bool = True
    alternate: bool = False
    wire: str = "float32"

    name = "powersgd"
    contractive = True
    linear = True
    feedback = True
    robust = True

    def __post_init__(self) -> None:
        if isinstance(self.rank, bool) or not isinstance(self.rank, int):
            below = True
        else:
            below = self.rank < 1
        if below:
            self._refuse(
                "rank is the number of columns of both factors",
                repr(self.rank),
                "an integer of 1 or more",
                "Pass rank=4.",
            )
        rate: Any = self.min_compression_rate
        if isinstance(rate, bool) or not (
            isinstance(rate, int | float) and 0 < rate < float("inf")
        ):
            self._refuse(
                "min_compression_rate says how much smaller factors have to be",
                repr(rate),
                "a number above 0",
                "Pass min_compression_rate=2.",
            )
        self._check_flags("warm_start", "alternate")
        if self.alternate and not self.warm_start:
            self._refuse(
                "taking turns means to begin with the last value",
                "alternate=True, warm_start=False",
                "warm_start=True",
                "Leave warm_start out.",
            )
        check_wire(self, self.wire)
        for attribute in ("linear", "reveals"):
            object.__setattr__(self, attribute, self.wire == "float32")

    def takes(self, shape: Shape) -> bool:
        """Returns whether the factors are small enough."""
        if not super().takes(shape):
            return False
        rows, columns = matrix_shape(shape)
        factors = (rows + columns) * self.rank
        enough = factors * self.min_compression_rate < rows * columns
        return self.rank <= min(rows, columns) and enough

    def init(self, key: int, shape: Shape, seed: int) -> dict[str, tf.Tensor]:
        """Returns a random Q, the same on all ranks (and no P yet)."""
        rows, columns = matrix_shape(shape)
        if not self.warm_start:
            return {}
        place = Place(1, 0, False, tf.constant(-1, tf.int64), seed)
        state = {"q": self._random(columns, draw_seed(place, key))}
        if self.alternate:
            state["p"] = tf.zeros([self.rank, rows])
        return state

    def rounds(self, items: Sequence[Item], place: Place) -> Rounds[list[Outcome]]:
        """Two rounds of sums, P and then Q; or one, if they take turns."""
        matrices = [
            tf.reshape(item.tensor, matrix_shape(tuple(item.tensor.shape)))
            for item in items
        ]
        factors = self._alternating if self.alternate else self._both
        outcomes = yield from factors(items, matrices, place)
        return [
            item.outcome(total, own, state)
            for item, (total, own, state) in zip(items, outcomes, strict=True)
        ]

    def _both(
        self, items: Sequence[Item], matrices: list[tf.Tensor], place: Place
    ) -> Rounds[list[tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]]]:
        starts = []
        for item, matrix in zip(items, matrices, strict=True):
            seed = draw_seed(place, item.key)
            draw = functools.partial(self._random, matrix.shape[1], seed)
            old = item.state.get("q")
            starts.append(draw() if old is None else refreshed(old, draw))
        pairs = zip(matrices, starts, strict=True)
        groups = groups_of(matrices)
        sums = yield from self._summed(
            [tf.matmul(q, m, transpose_b=True) for m, q in pairs], groups, place
        )
        ps = _orthonormal_together([total for total, _ in sums], groups)
        pairs = zip(matrices, ps, strict=True)
        qs = yield from self._summed([tf.matmul(p, m) for m, p in pairs], groups, place)
        return [
            (
                tf.matmul(p, total, transpose_a=True),
                tf.matmul(p, own, transpose_a=True),
                {"q": total} if self.warm_start else {},
            )
            for p, (total, own) in zip(ps, qs, strict=True)
        ]

    def _alternating(
        self, items: Sequence[Item], matrices: list[tf.Tensor], place: Place
    ) -> Rounds[list[tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]]]:
        left = tf.equal(place.step % 2, 0)  # P's turn
        bases, factors = [], []
        for item, matrix in zip(items, matrices, strict=True):
            rows, columns = matrix.shape
            longer = max(rows, columns)
            old = tf.where(
                left, _padded(item.state["q"], longer), _padded(item.state["p"], longer)
            )
            seed = draw_seed(place, item.key)
            old = refreshed(old, functools.partial(self._random, longer, seed))
            # Each turn has its own shape; padded to one, so that the buffer that
            # travels (and Horovod's cache of its shape) never changes.
            basis, factor = tf.cond(
                left,
                lambda m=matrix, o=old: _turn(m, o, left=True),
                lambda m=matrix, o=old: _turn(m, o, left=False),
            )
            basis.set_shape([self.rank, longer])
            factor.set_shape([self.rank, longer])
            bases.append(basis)
            factors.append(factor)
        sums = yield from self._summed(factors, groups_of(matrices), place)
        outcomes = []
        for item, basis, matrix, (total, own) in zip(
            items, bases, matrices, sums, strict=True
        ):
            rows, columns = matrix.shape

            def product(
                factor: tf.Tensor,
                basis: tf.Tensor = basis,
                rows: int = rows,
                columns: int = columns,
            ) -> tf.Tensor:
                p, q = tf.cond(left, lambda: (factor, basis), lambda: (basis, factor))
                return tf.matmul(p[:, :rows], q[:, :columns], transpose_a=True)

            state = {
                "p": tf.where(left, total[:, :rows], item.state["p"]),
                "q": tf.where(left, item.state["q"], total[:, :columns]),
            }
            outcomes.append((product(total), product(own), state))
        return outcomes

    def _summed(
        self, factors: Sequence[tf.Tensor], groups: Sequence[int], place: Place
    ) -> Rounds[list[tuple[tf.Tensor, tf.Tensor]]]:
        sent = [on_wire(factor, self.wire, place.ranks) for factor in factors]
        totals = yield [
            Wire(tf.reshape(factor, [-1]), SUM, group)
            for factor, group in zip(sent, groups, strict=True)
        ]
        return [
            (
                tf.cast(tf.reshape(total, own.shape), tf.float32),
                tf.cast(own, tf.float32),
            )
            for total, own in zip(totals, sent, strict=True)
        ]

    def _random(self, length: int, seed: tf.Tensor) -> tf.Tensor:
        return tf.random.stateless_normal([self.rank, length], seed, alg="philox")

    def payload(
        self, shapes: Sequence[Shape], ranks: int, has_all_to_all: bool
    ) -> list[Payload]:
        """All P's, then all Q's; taking turns, the longer of both."""
        del ranks, has_all_to_all
        each = tf.as_dtype(self.wire).size * self.rank
        sizes = [matrix_shape(shape) for shape in shapes]
        if self.alternate:
            return [Payload(SUM, each * sum(map(max, sizes)))]
        return [
            Payload(SUM, each * sum(rows for rows, _ in sizes)),
            Payload(SUM, each * sum(columns for _, columns in sizes)),
        ]


def _padded(factor: tf.Tensor, length: int) -> tf.Tensor:
    return tf.pad(factor, [[0, 0], [0, length - factor.shape[1]]])


def _turn(
    matrix: tf.Tensor, old: tf.Tensor, *, left: bool
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns basis and new factor, padded to the longer side of the matrix."""
    rows, columns = matrix.shape
    length = columns if left else rows
    basis = _padded(orthonormal(old[:, :length]), max(rows, columns))
    factor = tf.matmul(basis[:, :length], matrix, transpose_b=left)
    return basis, _padded(factor, max(rows, columns))


def _orthonormal_together(
    factors: list[tf.Tensor], groups: list[int]
) -> list[tf.Tensor]:
    """Makes the factors of one shape and group orthonormal in one operation."""
    results: list[tf.Tensor] = [None] * len(factors)
    alike: dict[tuple[int, ...], list[int]] = {}
    for index, (factor, group) in enumerate(zip(factors, groups, strict=True)):
        alike.setdefault((group, *factor.shape), []).append(index)
    for indices in alike.values():
        stacked = orthonormal(tf.stack([factors[index] for index in indices]))
        for index, basis in zip(indices, tf.unstack(stacked), strict=True):
            results[index] = basis
    return results
