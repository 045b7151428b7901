"""The pipelines of all processes, built in one: who reads which record when."""

import itertools
import os
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdist import cluster
from tfdist.data import from_tfrecords
from tfdist.data.pipeline import FileSlice, Source, build
from tfdist.data.tfrecords import count_records
from tfdist.strategies.arguments import global_batch_size

COUNTS = [11, 5, 8, 9, 2, 12]  # 47 records, numbered through all files


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    first = 0
    for index, count in enumerate(COUNTS):
        with tf.io.TFRecordWriter(str(folder / f"part-{index}")) as writer:
            for number in range(first, first + count):
                writer.write(str(number).encode())
        first += count
    return folder


def parse(record):
    number = tf.strings.to_number(record, tf.int64)
    return {"number": number, "vector": tf.fill([3], tf.cast(number, tf.float32))}


def source(folder, **options):
    paths = [str(folder / f"part-{index}") for index in range(len(COUNTS))]
    defaults = {
        "files": [FileSlice(*pair) for pair in zip(paths, COUNTS, strict=True)],
        "parse": parse,
        "global_batch_size": 8,
        "seed": 1,
        "shuffle_block": 6,
        "drop_remainder": False,
        "epochs": 1,
        "first_epoch": 0,
        "shard": "auto",
        "compression_type": None,
    }
    return Source(**defaults | options)


def numbers(dataset):
    return [batch["number"].numpy().tolist() for batch in dataset]


def flat(batches):
    return list(itertools.chain.from_iterable(batches))


@pytest.mark.parametrize("shard", ["files", "records"])
@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("drop_remainder", [False, True])
def test_every_example_once_and_equal_steps(folder, shard, processes, drop_remainder):
    data = source(folder, shard=shard, drop_remainder=drop_remainder)
    datasets = [build(data, processes, process) for process in range(processes)]
    steps = data.plan(processes, 1).steps
    assert [int(dataset.cardinality()) for dataset in datasets] == [steps] * processes
    batches = [numbers(dataset) for dataset in datasets]
    assert [len(mine) for mine in batches] == [steps] * processes
    seen = flat(flat(batches))
    assert len(seen) == len(set(seen))
    if not drop_remainder:
        assert sorted(seen) == list(range(sum(COUNTS)))
    for parts in zip(*batches, strict=True):
        last = parts[0] is batches[0][-1] and not drop_remainder
        assert len(flat(parts)) == (sum(COUNTS) % 8 if last else 8)


def test_by_records_the_batches_are_those_of_one_process(folder):
    data = source(folder, shard="records", epochs=2)
    alone = numbers(build(data, 1, 0))
    parts = [numbers(build(data, 3, process)) for process in range(3)]
    assert [flat(step) for step in zip(*parts, strict=True)] == alone
    by_files = source(folder, shard="files", epochs=2)
    parts = [numbers(build(by_files, 3, process)) for process in range(3)]
    assert [flat(step) for step in zip(*parts, strict=True)] != alone


def test_by_files_no_process_needs_the_files_of_another(folder, tmp_path):
    data = source(folder, epochs=2)
    plan = data.plan(3, 1)
    for process, mine in enumerate(plan.files):
        own = tmp_path / str(process)
        own.mkdir()
        for index in mine:
            (own / f"part-{index}").symlink_to(folder / f"part-{index}")
        alone = numbers(build(source(own, epochs=2), 3, process))
        assert alone == numbers(build(data, 3, process))
        with pytest.raises(tf.errors.NotFoundError):
            numbers(build(source(own, shard="records"), 3, process))


@pytest.mark.parametrize("shard", ["files", "records"])
def test_order_is_a_function_of_seed_and_epoch(folder, shard):
    def epochs(first, count, seed=1):
        data = source(folder, shard=shard, seed=seed, epochs=count, first_epoch=first)
        return numbers(build(data, 2, 1))

    both = epochs(0, 2)
    tf.random.set_seed(77)  # the global generator has no say, nor has another pass
    assert epochs(0, 1) + epochs(1, 1) == both
    assert epochs(0, 1) != epochs(1, 1)
    assert epochs(0, 1) != epochs(0, 1, seed=2)
    endless = source(folder, shard=shard, epochs=-1)
    dataset = build(endless, 2, 1)
    assert dataset.cardinality() == tf.data.INFINITE_CARDINALITY
    next(iter(dataset))  # as Keras does, to see the shapes
    assert numbers(dataset.take(len(both))) == both


def test_without_shuffling_the_files_keep_their_order(folder):
    data = source(folder, seed=None, epochs=None)
    assert flat(numbers(build(data, 1, 0))) == list(range(sum(COUNTS)))
    assert source(folder, epochs=None).epochs_held == -1


def test_a_process_may_have_no_rows_in_a_step(folder):
    data = source(folder, files=source(folder).files[4:5], global_batch_size=4)
    parts = [list(build(data, 3, process)) for process in range(3)]
    assert [len(step) for step in parts] == [1, 1, 1]
    assert [step[0]["vector"].shape for step in parts] == [(0, 3), (1, 3), (1, 3)]


def test_each_step_has_an_element_for_every_local_replica(folder):
    data = source(folder, shard="records", seed=None)
    batches = [numbers(build(data, 2, process, replicas=2)) for process in (0, 1)]
    assert batches[0][:2] + batches[1][:2] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert sorted(flat(flat(batches))) == list(range(47))
    # Keras takes the cardinality for the number of steps.
    dataset = build(data, 2, 0, replicas=2)
    assert dataset.cardinality() == tf.data.UNKNOWN_CARDINALITY


def test_batches_are_static_where_all_are_equal(folder):
    def rows(**options):
        dataset = build(source(folder, **options), 2, 0)
        return dataset.element_spec["number"].shape[0]

    assert rows(drop_remainder=True) == 4
    assert rows(drop_remainder=False) is None


def test_there_may_be_fewer_files_than_processes(folder):
    files = [file._replace(take=5) for file in source(folder).files[:4]]
    data = source(folder, files=files, global_batch_size=10)
    seen = [numbers(build(data, 5, process)) for process in range(5)]
    assert {len(batches) for batches in seen} == {2}
    assert len(set(flat(flat(seen)))) == 20


def test_the_next_block_is_read_while_this_one_is_used(tmp_path):
    rows = 2000  # in each of two files: far more than anything else reads ahead
    for name in "ab":
        with tf.io.TFRecordWriter(str(tmp_path / name)) as writer:
            for _ in range(rows):
                writer.write(name.encode())
    batches = from_tfrecords(
        str(tmp_path / "?"), lambda row: row, 4, shuffle_block=rows
    )
    first = next(iter(batches.dataset)).numpy()[0].decode()
    later = tmp_path / {"a": "b", "b": "a"}[first]
    later.unlink()
    os.mkfifo(later)  # whoever opens it to write waits for who opens it to read
    writer = threading.Thread(target=lambda: later.open("wb").close(), daemon=True)
    writer.start()
    iterator = iter(batches.dataset)
    assert (next(iterator).numpy() == first.encode()).all()
    writer.join(timeout=20)
    assert not writer.is_alive()


def test_a_part_of_a_file(folder):
    part = FileSlice(str(folder / "part-0"), total=11, skip=3, take=4)
    data = source(folder, files=[part], seed=None)
    assert flat(numbers(build(data, 1, 0))) == [3, 4, 5, 6]


@pytest.mark.parametrize("wrong", [4, 6])
def test_a_file_with_another_number_of_records_is_an_error(folder, wrong):
    file = FileSlice(str(folder / "part-1"), total=wrong)
    files = [file, source(folder).files[0]]
    with pytest.raises(tf.errors.FailedPreconditionError, match=f"contain {wrong} "):
        numbers(build(source(folder, files=files), 1, 0))


def test_plain_fit_reads_them(folder):
    def example(record):
        return tf.fill([2], tf.strings.to_number(record)) / 47, 1.0

    train, steps = from_tfrecords(str(folder / "part-*"), example, 8)
    test, _ = from_tfrecords(str(folder / "part-*"), example, 8, shuffle=False)
    model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    history = model.fit(
        train,
        steps_per_epoch=steps,
        epochs=2,
        validation_data=test,
        shuffle=False,  # Keras warns that its default cannot shuffle a dataset
        verbose=0,
    )
    assert steps == 6
    assert len(history.history["val_loss"]) == 2
    assert int(model.optimizer.iterations) == 12
    assert model.predict(test, verbose=0).shape == (47, 1)


def test_counts_and_paths(folder, tmp_path):
    assert count_records(str(folder / "part-0")) == 11
    options = tf.io.TFRecordOptions(compression_type="GZIP")
    with tf.io.TFRecordWriter(str(tmp_path / "zipped"), options) as writer:
        writer.write(b"5")
    batches = from_tfrecords(
        tmp_path / "zipped", parse, 2, compression_type="GZIP", shuffle=False
    )
    assert numbers(batches.dataset) == [[5]]
    shuffled_paths = [folder / "part-1", folder / "part-0"]
    batches = from_tfrecords(shuffled_paths, parse, 16, counts=[11, 5], shuffle=False)
    assert numbers(batches.dataset) == [list(range(16))]


def test_several_processes_need_their_strategy(folder, monkeypatch):
    monkeypatch.setattr(cluster, "size", lambda: 2)
    with pytest.raises(ValueError, match=r"(?s)1 replicas.*2 processes.*HINT.*scope"):
        from_tfrecords(str(folder / "part-*"), parse, 8)


class TwoProcesses:  # what a strategy looks like from here
    num_replicas_in_sync = 2

    def distribute_datasets_from_function(self, read):
        return read(tf.distribute.InputContext(2, 1, 2))


def test_several_processes_get_their_own_part(folder, monkeypatch):
    monkeypatch.setattr(cluster, "size", lambda: 2)
    batches = from_tfrecords(
        str(folder / "part-*"), parse, 8, seed=1, epochs=1, strategy=TwoProcesses()
    )
    expected = build(source(folder, shuffle_block=16_384), 2, 1)
    assert numbers(batches.dataset) == numbers(expected)
    assert len(expected) == batches.steps


@pytest.mark.parametrize("drop_remainder", [False, True])
def test_the_global_batch_is_known_on_any_number_of_processes(
    folder, monkeypatch, drop_remainder
):
    def told(strategy):
        options = {"drop_remainder": drop_remainder, "strategy": strategy}
        data = from_tfrecords(str(folder / "part-*"), parse, 8, **options).dataset
        return global_batch_size({"x": data})

    assert told(None) == 8
    monkeypatch.setattr(cluster, "size", lambda: 2)
    assert told(TwoProcesses()) == 8


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"counts": [1]}, "counts must name"),
        ({"files": "nowhere-*"}, "named once"),
        ({"files": ["a", "a"]}, "named once"),
        ({"seed": -1}, "seed must be"),
        ({"seed": None}, "Shuffling needs a seed"),
        ({"shuffle_block": 0}, "shuffle_block must be"),
        ({"epochs": 0}, "epochs at least 1"),
        ({"global_batch_size": 0}, "global_batch_size must be"),
    ],
)
def test_errors_say_what_was_received_and_the_fix(folder, options, words):
    arguments = {"files": str(folder / "part-*"), "global_batch_size": 8}
    with pytest.raises(ValueError, match=f"(?s){words}.*HINT: "):
        from_tfrecords(parse=parse, **arguments | options)


def test_ragged_shapes_cannot_be_empty(folder):
    def ragged(record):
        return tf.RaggedTensor.from_tensor([[tf.strings.length(record)]])

    data = source(
        folder, files=source(folder).files[4:5], global_batch_size=4, parse=ragged
    )
    for process in range(3):  # also those that have rows
        with pytest.raises(ValueError, match="(?s)dense tensors.*HINT"):
            build(data, 3, process)


def test_rows_stay_together(folder):
    for batch in build(source(folder), 2, 0):
        expected = np.repeat(batch["number"].numpy()[:, None], 3, axis=1)
        np.testing.assert_array_equal(batch["vector"], expected)
