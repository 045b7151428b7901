"""A pipeline that begins in the middle of an epoch, and reads nothing before it."""

import dataclasses
import itertools

import numpy as np
import pytest
import tensorflow as tf

from tfdist.data import Batches, from_tfrecords, starting_at
from tfdist.data.batches import advanced
from tfdist.data.pipeline import FileSlice, Source, build

COUNTS = [11, 5, 8, 9, 2, 12]  # 47 records, numbered through all files


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    numbers = iter(range(sum(COUNTS)))
    for index, count in enumerate(COUNTS):
        with tf.io.TFRecordWriter(str(folder / f"part-{index}")) as writer:
            for number in itertools.islice(numbers, count):
                writer.write(str(number).encode())
    return folder


def parse(record):
    return tf.strings.to_number(record, tf.int64)


def source(folder, **options):
    defaults = {
        "files": [
            FileSlice(str(folder / f"part-{index}"), count)
            for index, count in enumerate(COUNTS)
        ],
        "parse": parse,
        "global_batch_size": 8,
        "seed": 1,
        "shuffle_block": 6,
        "drop_remainder": False,
        "epochs": 2,
        "first_epoch": 1,
        "shard": "auto",
        "compression_type": None,
    }
    return Source(**defaults | options)


def rows(dataset):
    return [batch.tolist() for batch in dataset.as_numpy_iterator()]


@pytest.mark.failure(23)
@pytest.mark.parametrize(
    "shard, processes", [("records", 1), ("records", 3), ("files", 3)]
)
@pytest.mark.parametrize("seed", [None, 1])
@pytest.mark.parametrize("drop_remainder", [False, True])
def test_it_goes_on_as_the_whole_one_does(
    folder, shard, processes, seed, drop_remainder
):
    data = source(folder, shard=shard, seed=seed, drop_remainder=drop_remainder)
    steps = data.plan(processes, 1).steps
    for process in range(processes):
        whole = build(data, processes, process)
        expected = rows(whole)
        for step in (2, steps - 1):
            later = dataclasses.replace(data, first_step=step)
            dataset = build(later, processes, process)
            assert rows(dataset) == expected[step:], (process, step)
            assert dataset.cardinality() == len(expected) - step
            assert dataset.element_spec == whole.element_spec


def test_with_several_replicas_and_slices_of_files(folder):
    files = [FileSlice(str(folder / "part-0"), 11, 2, 7)]
    files += [FileSlice(str(folder / "part-5"), 12, 4)]
    for shard, seed in itertools.product(["files", "records"], [None, 1]):
        data = source(folder, files=files, global_batch_size=5, shard=shard, seed=seed)
        for process in range(2):
            expected = rows(build(data, 2, process, replicas=2))
            later = dataclasses.replace(data, first_step=2)
            assert rows(build(later, 2, process, replicas=2)) == expected[4:]


def test_no_file_before_it_is_opened(folder, tmp_path):
    for index in range(len(COUNTS)):
        if index > 1:
            (tmp_path / f"part-{index}").symlink_to(folder / f"part-{index}")
    one = {"seed": None, "epochs": 1}  # else other epochs would open the files
    expected = rows(build(source(folder, **one), 1, 0))
    # Two steps are 16 records: all of the first two files.
    assert rows(build(source(tmp_path, first_step=2, **one), 1, 0)) == expected[2:]
    with pytest.raises(tf.errors.NotFoundError):
        rows(build(source(tmp_path, first_step=1, **one), 1, 0))


def test_batches_start_anywhere(folder):
    batches = from_tfrecords(
        str(folder / "part-*"), parse, 8, seed=3, shuffle_block=6, first_epoch=2
    )
    assert batches.steps == 6
    expected = rows(batches.dataset.take(20))
    for epoch, step in [(2, 0), (2, 5), (3, 0), (4, 3)]:
        later = starting_at(batches, epoch, step)
        passed = (epoch - 2) * 6 + step
        assert later.steps == 6
        assert rows(later.dataset.take(20 - passed)) == expected[passed:]
        again = starting_at(later, epoch + 1, 1)
        assert rows(again.dataset.take(1)) == [
            rows(batches.dataset.skip(passed + 7 - step).take(1))[0]
        ]


def test_where_they_cannot_start(folder):
    batches = from_tfrecords(str(folder / "part-*"), parse, 8, shuffle=False, epochs=2)
    for epoch, step in [(0, 6), (0, -1), (2, 0)]:
        with pytest.raises(ValueError, match="cannot start there"):
            starting_at(batches, epoch, step)
    strange = Batches(tf.data.Dataset.from_tensor_slices(np.zeros((4, 2))), 4)
    with pytest.raises(ValueError, match="HINT: Pass what from_tfrecords"):
        starting_at(strange, 0, 1)
    assert advanced(strange.dataset, 1) is None
    assert advanced(batches.dataset.map(lambda x: x), 1) is None
