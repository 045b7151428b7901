"""What `fit`'s arguments tell before the first step."""

import numpy as np
import pytest
import tensorflow as tf

from tfdist import cluster
from tfdist.data import from_tfrecords
from tfdist.strategies import arguments, order


@pytest.mark.parametrize(
    ("rows", "batch_size", "replicas", "expected"),
    [
        (64, 16, 2, True),
        (64, 16, 3, False),  # 16 does not divide by 3
        (57, 16, 2, False),  # the last batch has 9 rows
        (64, None, 2, True),  # Keras's 32
        (60, None, 2, False),
    ],
)
def test_arrays_whose_batches_come_out_even_are_known(
    rows, batch_size, replicas, expected
):
    found = {"x": np.zeros((rows, 3)), "batch_size": batch_size}
    assert arguments.batches_are_equal(found, replicas) == expected


def test_a_validation_split_takes_its_rows_away():
    found = {"x": np.zeros((64, 3)), "batch_size": 16, "validation_split": 0.25}
    assert arguments.batches_are_equal(found, 2)
    assert not arguments.batches_are_equal(found | {"validation_split": 0.2}, 2)


def test_validation_data_overrules_the_split():
    data = {"validation_data": (np.zeros((4, 3)), np.zeros((4, 1)))}
    found = {"x": np.zeros((60, 3)), "batch_size": 16, "validation_split": 0.2}
    assert arguments.batches_are_equal(found, 2)  # 48 rows
    assert not arguments.batches_are_equal(found | data, 2)


def test_a_dataset_says_by_its_static_batch_size():
    dataset = tf.data.Dataset.range(64)
    known = dataset.batch(16, drop_remainder=True)
    assert arguments.batches_are_equal({"x": known}, 2)
    assert not arguments.batches_are_equal({"x": known}, 3)
    assert not arguments.batches_are_equal({"x": dataset.batch(16)}, 2)


@pytest.mark.parametrize(
    "data",
    [
        np.zeros((0, 3)),
        {"a": np.zeros((0, 3))},
        [np.zeros((0, 3)), np.zeros((0, 2))],
        [],
        tf.data.Dataset.range(0).batch(2),
    ],
    ids=["array", "dict", "list of arrays", "list", "dataset"],
)
def test_no_data_is_refused(data):
    with pytest.raises(ValueError, match=r"no data(.|\n)*HINT"):
        arguments.details({"x": data})


def test_details_differ_where_calls_differ():
    first = arguments.details({"x": np.zeros((4, 3), "f"), "epochs": 2})
    assert first == arguments.details({"x": np.ones((4, 3), "f"), "epochs": 2})
    assert first != arguments.details({"x": np.zeros((4, 3), "d"), "epochs": 2})
    assert first != arguments.details({"x": np.zeros((4, 3), "f"), "epochs": 3})


def test_the_order_and_the_files_of_tfdist_data_are_told():
    def told(files=("one/a", "one/b"), counts=(11, 5), **options):
        data = from_tfrecords(files, lambda row: row, 8, counts=counts, **options)
        return arguments.details({"x": data.dataset})

    assert told(seed=2) == told(["two/a", "two/b"], seed=2)
    others = (
        {"seed": 1},
        {"shard": "records"},
        {"files": ("one/a", "one/c")},
        {"counts": (10, 6)},
    )
    for other in others:
        assert told(**other) != told(), other


def test_a_random_order_is_refused_only_between_processes():
    random = tf.data.Dataset.range(8).shuffle(8)
    random._seed = random._seed2 = 0  # as without any global seed
    arguments.details({"x": random.batch(2)})
    cluster.install(cluster.Member(rank=0, size=2))
    try:
        with pytest.raises(ValueError, match=r"shuffled differently(.|\n)*HINT"):
            arguments.details({"x": random.batch(2)})
        arguments.details({"x": tf.data.Dataset.range(8).shuffle(8, seed=3).batch(2)})
    finally:
        cluster.install(None)


def test_every_shuffle_of_a_dataset_is_found():
    dataset = tf.data.Dataset.range(8).shuffle(8, seed=3).map(lambda x: x)
    both = tf.data.Dataset.zip((dataset, tf.data.Dataset.range(8).shuffle(2, seed=5)))
    assert [seeds[1] for seeds in order.shuffle_seeds(both)] == [3, 5]
    assert order.shuffle_seeds(tf.data.Dataset.range(8).batch(2)) == []
