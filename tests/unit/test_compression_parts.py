"""The pieces that compressors are made of: matrices, bits, factors, draws."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfdist.compression import bits
from tfdist.compression.buffers import (
    BUFFER_BYTES,
    FIRST_BYTES,
    buffers_of,
    groups_of,
)
from tfdist.compression.fp16 import to_float16
from tfdist.compression.orthogonal import orthonormal, refreshed
from tfdist.compression.randomk import strata
from tfdist.compression.rounds import ALL_TO_ALL, GATHER, SUM, Payload, received
from tfdist.compression.shapes import matrix_shape

settings.register_profile("tfdist", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("tfdist")


@pytest.mark.parametrize(
    ("shape", "matrix"),
    [
        ((784, 128), (784, 128)),  # Dense
        ((30000, 64), (30000, 64)),  # Embedding
        ((3, 3, 64, 128), (576, 128)),  # Conv2D
        ((1, 1, 64, 128), (64, 128)),
        ((5, 32, 64), (160, 64)),  # Conv1D
        ((3, 3, 3, 16, 32), (432, 32)),  # Conv3D
        ((3, 3, 64, 1), (9, 64)),  # DepthwiseConv2D
        ((512, 8, 64), (512, 512)),  # attention: query, key, value
        ((8, 64, 512), (512, 512)),  # attention: output
        ((1, 9), (1, 9)),
        ((9, 1), (9, 1)),
    ],
)
def test_matrices_of_keras_layers(shape, matrix):
    assert matrix_shape(shape) == matrix


@given(st.lists(st.booleans(), min_size=1, max_size=100))
def test_bits_survive_packing(flags):
    packed = bits.pack_bits(tf.constant(flags))
    assert packed.dtype == tf.int32
    assert packed.shape[0] == bits.words(len(flags)) == -(-len(flags) // 32)
    assert bits.unpack_bits(packed, len(flags)).numpy().astype(bool).tolist() == flags


@pytest.mark.parametrize("dtype", [tf.int8, tf.bfloat16, tf.float16, tf.float32])
def test_small_types_survive_int32(dtype):
    values = tf.cast(tf.reshape(tf.range(-12, 12), [2, 12]), dtype)
    packed = bits.to_words(values)
    assert packed.dtype == tf.int32
    assert packed.shape == [2, 12 * dtype.size // 4]
    tf.debugging.assert_equal(bits.from_words(packed, dtype), values)


@pytest.mark.parametrize(
    "sizes",
    [[], [0], [5], [1, 2, 3], [2**24] * 3, [2**20] * 100, [2**30, 4, 4], [2**23] * 16],
)
def test_buffers_hold_each_gradient_once(sizes):
    buffers = buffers_of(sizes, most=8)
    assert len(buffers) <= 8
    # Together in the reverse order of the variables; within a buffer, in their order.
    assert [place for one in reversed(buffers) for place in one] == [*range(len(sizes))]
    filled = [sum(sizes[place] for place in one) for one in buffers]
    if len(filled) > 1:
        assert filled[0] >= FIRST_BYTES
    assert all(size >= BUFFER_BYTES for size in filled[1:-1])


def test_small_models_take_one_buffer_and_large_ones_several():
    assert buffers_of([1000] * 50, most=8) == [list(range(50))]
    assert buffers_of([BUFFER_BYTES] * 3, most=8) == [[2], [1], [0]]
    assert buffers_of([BUFFER_BYTES] * 3, most=2) == [[2], [0, 1]]
    layers = buffers_of([4 << 20] * 12, most=8)
    assert list(map(len, layers)) == [1, 2, 4, 3, 1, 1]


def test_groups_are_parts_of_a_size_and_small_models_are_one():
    large, small = tf.zeros([1 << 20]), tf.zeros([8])
    assert groups_of([]) == []
    assert groups_of([small] * 3) == [0, 0, 0]
    assert groups_of([large, small, large, large]) == [0, 0, 0, 1]
    assert groups_of([large] * 12) == [0] * 4 + [1] * 4 + [2] * 4


@given(
    st.integers(1, 5),
    st.integers(1, 12),
    st.integers(0, 5),
    st.sampled_from([0.0, 1e-30, 1.0, 1e30]),
)
def test_orthonormal_whatever_comes(rows, columns, rank, size):
    """Rows of any rank (0 too) and any size."""
    rows, rank = min(rows, columns), min(rank, rows, columns)
    draws = np.random.default_rng(columns)
    product = draws.normal(size=(rows, rank)) @ draws.normal(size=(rank, columns))
    given_rows = (product * size).astype("f")
    basis = orthonormal(tf.constant(given_rows)).numpy()
    np.testing.assert_allclose(basis @ basis.T, np.eye(rows), atol=1e-5)
    # The span is kept: projecting on it changes nothing.
    kept = (given_rows.astype("f8") @ basis.T) @ basis
    np.testing.assert_allclose(kept, given_rows, atol=1e-4 * size * columns + 1e-38)


def test_vanished_rows_are_drawn_anew():
    rows = tf.constant([[1.0, 2.0], [0.0, 0.0], [3e-20, 0.0]])
    fresh = tf.fill([3, 2], 7.0)
    np.testing.assert_array_equal(
        refreshed(rows, lambda: fresh), [[0.5, 1], [7, 7], [7, 7]]
    )
    np.testing.assert_array_equal(refreshed(tf.zeros([3, 2]), lambda: fresh), fresh)


@given(st.integers(1, 5000), st.floats(0.001, 1.0), st.integers(0, 2**31))
def test_strata_never_repeat_an_index(size, ratio, seed):
    count = min(size, max(1, round(size * ratio)))
    indices, lengths = strata(size, count, tf.constant([seed, 0], tf.int64))
    indices = indices.numpy()
    assert len(set(indices.tolist())) == count
    assert 0 <= indices.min() and indices.max() < size
    assert lengths.numpy().sum() == size


def test_strata_reach_every_element_equally_often():
    draw = tf.function(lambda seed: strata(50, 10, seed)[0])
    hits = np.zeros(50)
    for step in range(2000):
        hits[draw(tf.constant([3, step], tf.int64)).numpy()] += 1
    # 400 expected each, with a standard deviation of 18.
    assert 310 < hits.min() and hits.max() < 490


@pytest.mark.parametrize("ranks", [2, 3, 5, 7])
def test_no_sum_of_float16_overflows(ranks):
    wire = to_float16(tf.constant([1e30, -1e30, 1.0, 65504.0]), ranks).numpy()
    total = sum([wire] * ranks, np.zeros(4, np.float16))
    assert total.dtype == np.float16
    assert np.isfinite(total).all()
    assert total[0] > 65000


def test_bytes_received():
    assert received(Payload(SUM, 100), 2) == 100
    assert received(Payload(SUM, 100), 5) == 160
    assert received(Payload(GATHER, 100), 5) == 400
    assert received(Payload(ALL_TO_ALL, 100), 5) == 80
    assert received(Payload(SUM, 100), 1) == 0
