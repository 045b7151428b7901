"""Prepared TFDS datasets as batches, each process reading its own part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfdist.data.batches import Batches, distribute
from tfdist.data.pipeline import FileSlice, Source, order_seed
from tfdist.errors import explain


def from_tfds(
    builder_or_name: Any,
    split: str,
    global_batch_size: int,
    *,
    preprocess: Callable[..., Any] | None = None,
    as_supervised: bool = True,
    shuffle: bool = True,
    seed: int = 0,
    drop_remainder: bool = False,
    epochs: int | None = None,
    first_epoch: int = 0,
    shard: str = "auto",
    shuffle_block: int = 16_384,
    strategy: tf.distribute.Strategy | None = None,
) -> Batches:
    """Reads a prepared TFDS dataset like `from_tfrecords`, see there for the order.

    The number of examples in each file comes from the metadata of TFDS, so that no
    process opens a file of another one. Nothing is downloaded or prepared here.

    Args:
        builder_or_name: A `tfds.core.DatasetBuilder`, or a name for `tfds.builder`.
        split: Such as "train" or "train[:80%]".
        global_batch_size: Examples in one step over all replicas.
        preprocess: Applied to each example, `(x, y)` if supervised, in parallel.
        as_supervised: Whether examples are the pair `(input, target)` that the dataset
            declares, instead of a dictionary of all features.
        shuffle: Whether to draw a new order every epoch.
        seed: Seed of the order, from 0 to 2**63 - 1; the same on every process.
        drop_remainder: Whether to leave out what does not fill a batch, so that all
            batches have the same static shape; by files, also what a process holds
            beyond the steps of the one that holds least.
        epochs: Epochs that the dataset holds; -1 is endless. By default endless if
            `shuffle`, else one.
        first_epoch: Number of the first epoch, to go on where a run stopped.
        shard: "files", "records", or "auto": by files where they can be shared
            evenly enough. With a changing number of processes pass "records": by files,
            training goes on with another number only at an epoch's start. Also for
            `predict`: by files, the rows come in another order than in the files.
        shuffle_block: Records that are shuffled together.
        strategy: The strategy to read for; None takes the current one. With several
            processes call this inside `strategy.scope()`.

    Returns:
        The dataset and the number of steps in an epoch, as from `from_tfrecords`.

    Raises:
        ImportError: A name was given and tensorflow-datasets is not installed.
        ValueError: The dataset is not prepared, is not stored as TFRecords, has no
            such split or no supervised pair; or as in `from_tfrecords`.

    Example:
        >>> with strategy.scope():
        ...     train, steps = tfdist.data.from_tfds("mnist", "train", 64, seed=1)
        >>> model.fit(train, steps_per_epoch=steps, epochs=5)
    """
    builder = builder_or_name
    if isinstance(builder, str):
        builder = _tfds().builder(builder)
    info = builder.info
    _check_stored(builder, info)
    pair = info.supervised_keys
    if as_supervised and pair is None:
        raise ValueError(
            explain(
                f"The dataset {info.name!r} declares no supervised pair",
                received="as_supervised=True",
                expected=f"a dictionary of the features {sorted(info.features)}",
                hint="Pass as_supervised=False and choose the features in preprocess.",
            )
        )

    def parse(record: tf.Tensor) -> Any:
        example = info.features.deserialize_example(record)
        if as_supervised:
            example = tf.nest.map_structure(lambda key: example[key], pair)
        if preprocess is None:
            return example
        return preprocess(*example) if as_supervised else preprocess(example)

    source = Source(
        files=[
            FileSlice(
                str(part.filename),
                total=part.examples_in_shard,
                skip=part.skip,
                take=-1 if part.takes_all else part.take,
            )
            for part in info.splits[split].file_instructions
        ],
        parse=parse,
        global_batch_size=global_batch_size,
        seed=order_seed(shuffle, seed),
        shuffle_block=shuffle_block,
        drop_remainder=drop_remainder,
        epochs=epochs,
        first_epoch=first_epoch,
        shard=shard,
        compression_type=None,
    )
    return distribute(source, strategy)


def _tfds() -> Any:
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise ImportError(
            f"tfdist.data.from_tfds needs tensorflow-datasets: {error}.\n"
            'HINT: pip install "tfdist[data]"'
        ) from error
    return tensorflow_datasets


def _check_stored(builder: Any, info: Any) -> None:
    if not builder.is_prepared():
        raise ValueError(
            explain(
                f"The dataset {info.name!r} is not prepared",
                received=f"nothing in {builder.data_path}",
                expected="its TFRecord files",
                hint="Call builder.download_and_prepare() on one process first.",
            )
        )
    if info.file_format.name != "TFRECORD":
        raise ValueError(
            explain(
                f"The dataset {info.name!r} is not stored as TFRecords",
                received=f"file format {info.file_format.name}",
                expected="TFRECORD",
                hint='Prepare it with file_format="tfrecord".',
            )
        )
