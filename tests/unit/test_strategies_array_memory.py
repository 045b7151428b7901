"""Splitting batches never lets TensorFlow write into the user's arrays."""

import numpy as np
import pytest
import tensorflow as tf
from packaging.version import Version

from tfdist.strategies import array_memory, sharding

ROWS, BATCH, WIDTH = 64, 16, 16  # rows of 64 bytes: where TensorFlow shares memory
SPECIFICATION = tf.TensorSpec([None, WIDTH], tf.float32)


def from_generator(array):
    def forever():
        while True:
            for start in range(0, ROWS, BATCH):
                yield array[start : start + BATCH]

    return tf.data.Dataset.from_generator(forever, output_signature=SPECIFICATION)


def from_numpy_function(array):
    def rows(start):
        return array[start : start + BATCH]

    def batch(start):
        values = tf.numpy_function(rows, [start], tf.float32)
        return tf.ensure_shape(values, [None, WIDTH])

    return tf.data.Dataset.range(0, ROWS, BATCH).map(batch).repeat()


def sliced_by_tensorflow(dataset):
    return dataset.map(lambda rows: rows[: tf.shape(rows)[0] // 2])


def split_for_a_rank(dataset):
    return sharding.replica_batches(dataset, 2, 0)


def sliced_after_a_copy(dataset):
    return sliced_by_tensorflow(array_memory.owning(dataset))


@tf.function
def compute(rows):
    return tf.reduce_sum(tf.exp(rows - 1.0) * 2.0)


def is_overwritten(source, split):
    """Whether training on the array changes it, in any of 30 attempts."""
    for seed in range(30):
        array = np.random.default_rng(seed).random((ROWS, WIDTH), np.float32)
        before = array.copy()

        @tf.function
        def step(iterator):
            return compute(next(iterator))

        iterator = iter(split(source(array)).prefetch(2))
        for _ in range(2 * ROWS // BATCH):
            step(iterator)
        if not np.array_equal(array, before):
            return True
    return False


@pytest.mark.parametrize("source", [from_generator, from_numpy_function])
@pytest.mark.parametrize("split", [split_for_a_rank, sliced_after_a_copy])
def test_the_users_array_stays_as_it_is(source, split):
    assert not is_overwritten(source, split)


@pytest.mark.skipif(
    Version(tf.__version__) < Version("2.20"),
    reason="TensorFlow 2.18.1 did not overwrite the array in 30 attempts",
)
def test_tensorflow_alone_overwrites_it():
    assert is_overwritten(from_generator, sliced_by_tensorflow)


def test_other_datasets_are_not_copied():
    dataset = tf.data.Dataset.range(8).map(lambda x: x + 1).batch(2)
    assert array_memory.owning(dataset) is dataset


@pytest.mark.parametrize("source", [from_generator, from_numpy_function])
def test_a_copy_keeps_values_and_shapes(source):
    array = np.arange(ROWS * WIDTH, dtype=np.float32).reshape(ROWS, WIDTH)
    copied = array_memory.owning(source(array))
    assert copied.element_spec == SPECIFICATION
    batches = list(copied.take(ROWS // BATCH).as_numpy_iterator())
    np.testing.assert_array_equal(np.concatenate(batches), array)
