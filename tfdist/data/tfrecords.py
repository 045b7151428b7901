"""Plain TFRecord files as batches, each process reading its own part."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfdist.data.batches import Batches, distribute
from tfdist.data.pipeline import FileSlice, Source, order_seed
from tfdist.errors import explain


def from_tfrecords(
    files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    parse: Callable[[tf.Tensor], Any],
    global_batch_size: int,
    *,
    shuffle: bool = True,
    seed: int = 0,
    drop_remainder: bool = False,
    epochs: int | None = None,
    first_epoch: int = 0,
    counts: Sequence[int] | None = None,
    shard: str = "auto",
    shuffle_block: int = 16_384,
    compression_type: str | None = None,
    strategy: tf.distribute.Strategy | None = None,
) -> Batches:
    """Reads TFRecord files so that each process opens only its own, if it can.

    Over all processes every example comes exactly once an epoch, and every process
    makes the same number of steps. Where the files can be shared evenly enough (no
    process holds nothing, or more than 5/4 of the mean), each one keeps a fixed set of
    files for the whole run (files never move between processes) and adds to each step
    in proportion to what it holds. The steps then hold `global_batch_size` examples,
    but not the same ones as in one process. Otherwise, or with `shard="records"`, every
    process opens every file, keeps the records that are its own and parses only
    those; the global batches are those of one process.

    By files, `drop_remainder` also leaves out of every epoch what a process holds
    beyond the steps of the one that holds least. Where that would cost more than a
    fifth of the steps, "auto" shares the records instead; "files" accepts it.

    Shuffling, for epoch e, draws from `(seed, e)` alone: first the order of the
    process's files; then, in the stream that they form, the order of the records in
    each block of `shuffle_block`. So a record only moves within its block: data that
    is sorted by class should be written to the files in random order. Files are read
    one at a time, and each block while the one before is used; for the first block of
    an epoch, training waits. Memory: up to three blocks of serialized records.

    Args:
        files: Paths, or one glob pattern. They are sorted by name, so that all
            processes agree on their numbers.
        parse: Turns one serialized record into one example, such as `(x, y)`; traced
            once, applied in parallel, in order.
        global_batch_size: Examples in one step over all replicas.
        shuffle: Whether to draw a new order every epoch.
        seed: Seed of the order, from 0 to 2**63 - 1; the same on every process.
        drop_remainder: Whether to leave out what does not fill a batch, so that all
            batches have the same static shape.
        epochs: Epochs that the dataset holds; -1 is endless. By default endless if
            `shuffle`, else one.
        first_epoch: Number of the first epoch, to go on where a run stopped.
        counts: Records in each file, in the sorted order; None lets every process
            count them, which reads every file once.
        shard: "files", "records", or "auto" as described. With a changing number of
            processes pass "records": by files, training goes on with another number
            only at an epoch's start. Also for `predict`: by files, the rows come in
            another order than in the files.
        shuffle_block: Records that are shuffled together.
        compression_type: None, "GZIP" or "ZLIB".
        strategy: The strategy to read for; None takes the current one. With several
            processes call this inside `strategy.scope()`.

    Returns:
        The dataset and the number of steps in an epoch. A training dataset is
        endless, so that the position in the order is the number of batches taken
        and nothing else; `fit` needs the steps.

    Raises:
        ValueError: No file matches, a path comes twice, `counts` has another length,
            there is not one step, `shuffle` without a seed, or several processes
            without a strategy.

    Example:
        >>> with strategy.scope():
        ...     train, steps = tfdist.data.from_tfrecords("train-*", parse, 64, seed=1)
        ...     test, _ = tfdist.data.from_tfrecords("test-*", parse, 64, shuffle=False)
        >>> model.fit(train, steps_per_epoch=steps, epochs=5, validation_data=test)
    """
    paths = _sorted_paths(files)
    if counts is None:
        counts = [count_records(path, compression_type) for path in paths]
    if len(counts) != len(paths):
        raise ValueError(
            explain(
                "counts must name the records of each file",
                received=f"{len(counts)} counts",
                expected=f"{len(paths)}, in the order of the sorted paths",
                hint="Leave counts out, and the files are counted.",
            )
        )
    source = Source(
        files=[FileSlice(*pair) for pair in zip(paths, counts, strict=True)],
        parse=parse,
        global_batch_size=global_batch_size,
        seed=order_seed(shuffle, seed),
        shuffle_block=shuffle_block,
        drop_remainder=drop_remainder,
        epochs=epochs,
        first_epoch=first_epoch,
        shard=shard,
        compression_type=compression_type,
    )
    return distribute(source, strategy)


def count_records(path: str, compression_type: str | None = None) -> int:
    """Returns the number of records in a TFRecord file; reads all of it.

    Args:
        path: The file.
        compression_type: None, "GZIP" or "ZLIB".
    """
    records = tf.data.TFRecordDataset(path, compression_type)
    return int(records.reduce(np.int64(0), lambda count, _: count + 1))


def _sorted_paths(
    files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
) -> list[str]:
    if isinstance(files, (str, os.PathLike)):
        paths = sorted(tf.io.gfile.glob(os.fspath(files)))
    else:
        paths = sorted(os.fspath(path) for path in files)
    if not paths or len(set(paths)) < len(paths):
        raise ValueError(
            explain(
                "Each file must be named once",
                received=f"files={files!r}, which are {len(paths)} paths, "
                f"{len(set(paths))} of them different",
                expected="at least one path, none of them twice",
                hint="Check the folder and the pattern with ls.",
            )
        )
    return paths
