"""The tf.data pipeline of one process: records in order, parsed, in its batches.

No step keeps random state: the order of epoch e follows from `(seed, e)` alone, so
an abandoned iterator (Keras makes one to look at the first batch) changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfdist.data.plan import Plan, make_plan
from tfdist.errors import explain

_ENDLESS = np.iinfo(np.int64).max  # epochs
_SEED_LIMIT = 2**63  # seeds of tf.random.stateless_* are signed 64-bit integers


def order_seed(shuffle: bool, seed: int | None) -> int | None:
    """Returns the seed of the order, None for the order of the files.

    Raises:
        ValueError: Shuffling without a seed, which is no order that all processes know.
    """
    if shuffle and seed is None:
        raise ValueError(
            explain(
                "Shuffling needs a seed, the same on every process",
                received="shuffle=True and seed=None",
                expected="an integer",
                hint="Pass seed=0, or shuffle=False.",
            )
        )
    return seed if shuffle else None


class FileSlice(NamedTuple):
    """Consecutive records of one TFRecord file."""

    path: str
    total: int  # records in the file
    skip: int = 0  # records before the slice
    take: int = -1  # records in the slice; -1 takes all that follow

    @property
    def examples(self) -> int:
        """Records in the slice."""
        return self.total - self.skip if self.take < 0 else self.take


@dataclass(frozen=True)
class Source:
    """Everything about the data that does not depend on who reads it."""

    files: list[FileSlice]
    parse: Callable[[tf.Tensor], Any]  # one serialized record -> one example
    global_batch_size: int
    seed: int | None  # None keeps the order of the files
    shuffle_block: int  # records that are shuffled together
    drop_remainder: bool
    epochs: int | None  # -1 is endless; None is that if shuffled, else one epoch
    first_epoch: int
    shard: str
    compression_type: str | None
    first_step: int = 0  # of the first epoch, to begin in its middle

    def __post_init__(self) -> None:
        if self.seed is not None and not 0 <= self.seed < _SEED_LIMIT:
            raise ValueError(
                f"seed must be an integer from 0 to 2**63 - 1. Received: {self.seed}.\n"
                "HINT: Use seed % 2**63."
            )
        known = self.epochs is None or self.epochs == -1 or self.epochs >= 1
        if self.shuffle_block < 1 or self.first_epoch < 0 or not known:
            raise ValueError(
                "shuffle_block must be at least 1, first_epoch at least 0 and epochs "
                f"at least 1 (or -1, endless). Received: {self.shuffle_block}, "
                f"{self.first_epoch} and {self.epochs}.\nHINT: Leave the defaults."
            )

    @property
    def epochs_held(self) -> int:
        """Epochs that a dataset of it holds; -1 is endless."""
        if self.epochs is not None:
            return self.epochs
        return 1 if self.seed is None else -1

    def plan(self, processes: int, replicas: int) -> Plan:
        """Returns who reads what, see `make_plan`."""
        return make_plan(
            [file.examples for file in self.files],
            self.global_batch_size,
            processes,
            replicas,
            drop_remainder=self.drop_remainder,
            shard=self.shard,
        )


def build(
    source: Source, processes: int, process: int, replicas: int = 1
) -> tf.data.Dataset:
    """Builds the pipeline of one process.

    Args:
        source: The data.
        processes: Processes that read it.
        process: The process to build for, from 0.
        replicas: Replicas that this process feeds; each step holds one element for
            each of them, in turn.

    Returns:
        A dataset of batches; batches of no rows are among them where a replica has
        no part in a step.
    """
    plan = source.plan(processes, replicas)
    own = [source.files[index] for index in plan.files[process]]
    by_records = processes > 1 and not plan.by_files

    def one_epoch(epoch: tf.Tensor, first_step: int = 0) -> tf.data.Dataset:
        sizes = plan.sizes if by_records else plan.sizes[:, [process]]
        read = int(sizes[:first_step].sum())  # what earlier steps have used
        rest = plan._replace(sizes=plan.sizes[first_step:])
        records = _read(source, own, epoch, read)
        if by_records:
            records = _keep_own(records, rest, process, source.global_batch_size)
        records = records.take(int(rest.sizes[:, process].sum()))
        examples = records.map(source.parse, tf.data.AUTOTUNE, deterministic=True)
        return _batch(examples, rest, process)

    epochs = source.epochs_held
    first = source.first_epoch + (source.first_step > 0)  # to be read from its start
    last = _ENDLESS if epochs == -1 else source.first_epoch + epochs
    dataset = tf.data.Dataset.range(first, last).flat_map(one_epoch)
    if source.first_step:
        epoch = tf.constant(source.first_epoch, tf.int64)
        # Whose shapes are those of whole epochs, as far as the rest's are less static.
        dataset = one_epoch(epoch, source.first_step).concatenate(dataset)
    if epochs == -1:
        known = tf.data.INFINITE_CARDINALITY
    elif replicas == 1:
        known = epochs * plan.steps - source.first_step
    else:
        # Keras takes the cardinality for the number of steps, but this dataset holds
        # `replicas` elements a step.
        known = tf.data.UNKNOWN_CARDINALITY
    if known != tf.data.UNKNOWN_CARDINALITY:
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(known))
    return dataset.prefetch(tf.data.AUTOTUNE)


def _read(
    source: Source, files: list[FileSlice], epoch: tf.Tensor, first: int = 0
) -> tf.data.Dataset:
    """Returns the serialized records of `files` in the order of an epoch.

    Args:
        source: The data.
        files: The files to read.
        epoch: The epoch.
        first: Records to leave out at the start. Files that hold no others are not
            opened; of a block that is shuffled, all are read.
    """
    block = 1 if source.seed is None else source.shuffle_block
    unread = first // block * block
    paths, *numbers = zip(*files, strict=True)
    table = (tf.constant(paths), *(tf.constant(n, tf.int64) for n in numbers))
    if source.seed is not None:
        seed = tf.stack([tf.constant(source.seed, tf.int64), epoch])
        order = _shuffle(tf.range(len(files)), seed, 0)
        table = tuple(tf.gather(column, order) for column in table)
    if unread:
        table = _without_first(table, unread)

    def open_file(
        path: tf.Tensor, total: tf.Tensor, skip: tf.Tensor, take: tf.Tensor
    ) -> tf.data.Dataset:
        records = tf.data.TFRecordDataset(path, source.compression_type)
        # A file with other than the known number of records would shift all that
        # follow, on this process only.
        exact = tf.data.experimental.assert_cardinality(total)
        return records.apply(exact).skip(skip).take(take)

    records = tf.data.Dataset.from_tensor_slices(table).flat_map(open_file)
    if source.seed is None:
        return records

    # Whole blocks instead of tf.data's sliding buffer: a block's order depends on its
    # own number alone, not on all that was read before it.
    def shuffle_block(number: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        return _shuffle(rows, seed, number)

    blocks = records.batch(block).enumerate(1 + unread // block)
    # The next block is read while this one is used; else training would wait for it.
    return blocks.map(shuffle_block).prefetch(1).unbatch().skip(first - unread)


def _without_first(table: tuple[tf.Tensor, ...], records: int) -> tuple[tf.Tensor, ...]:
    """Returns a table of file slices without their first records."""
    paths, totals, skips, takes = table
    held = tf.where(takes < 0, totals - skips, takes)
    gone = tf.clip_by_value(records - tf.cumsum(held, exclusive=True), 0, held)
    left = tf.where((takes < 0) & (gone < held), takes, held - gone)
    return paths, totals, skips + gone, left


def _shuffle(rows: tf.Tensor, seed: tf.Tensor, stream: int | tf.Tensor) -> tf.Tensor:
    key = tf.random.experimental.stateless_fold_in(seed, stream, alg="philox")
    order = tf.random.experimental.stateless_shuffle(
        tf.range(tf.shape(rows)[0]), key, alg="philox"
    )
    return tf.gather(rows, order)


def _keep_own(
    records: tf.data.Dataset, plan: Plan, process: int, global_batch_size: int
) -> tf.data.Dataset:
    """Drops, before parsing, the rows of each global batch that others train on.

    The records and the plan begin with the same step.
    """
    rows = plan.sizes.sum(axis=2)
    ends = tf.constant(rows[:, : process + 1].sum(axis=1), tf.int64)
    starts = ends - tf.constant(rows[:, process], tf.int64)

    def is_own(index: tf.Tensor, record: tf.Tensor) -> tf.Tensor:
        del record
        step = index // global_batch_size
        row = index % global_batch_size
        return tf.logical_and(starts[step] <= row, row < ends[step])

    used = records.take(int(rows.sum())).enumerate()
    return used.filter(is_own).map(lambda index, record: record)


def _batch(examples: tf.data.Dataset, plan: Plan, process: int) -> tf.data.Dataset:
    """Cuts examples into the batches of a process, some of them of no rows."""
    if plan.uniform_size is not None:
        # The batch dimension is static only if it is so on every process: strategies
        # take a static shape for the promise that all replicas have equal rows.
        return examples.batch(plan.uniform_size, drop_remainder=True)
    sizes = plan.sizes[:, process].reshape(-1)
    filled = sizes[sizes > 0]
    batches = examples.batch(max(1, int(sizes.max())))
    if len(set(filled[:-1])) > 1 or (filled[:-1] < filled[-1:]).any():
        batches = batches.rebatch(filled)
    if not (plan.sizes == 0).any():
        return batches
    # tf.data's rebatch never returns from a size of 0. Every process makes the empty
    # batch, used or not, so that all of them meet its error.
    empty = tf.data.Dataset.from_tensors(_no_rows(batches.element_spec)).repeat()
    choice = tf.data.Dataset.from_tensor_slices((sizes > 0).astype(np.int64))
    return tf.data.Dataset.choose_from_datasets(
        [empty, batches], choice, stop_on_empty_dataset=False
    )


def _no_rows(spec: Any) -> Any:
    def zeros(tensor: tf.TensorSpec) -> tf.Tensor:
        if not isinstance(tensor, tf.TensorSpec) or tensor.shape.rank is None:
            raise ValueError(
                "A replica gets no rows in some step, and an empty batch can only be "
                f"made of dense tensors of known rank. Received: {tensor}.\n"
                "HINT: Let parse return dense tensors, or pass drop_remainder=True."
            )
        return tf.zeros([0, *(size or 0 for size in tensor.shape[1:])], tensor.dtype)

    return tf.nest.map_structure(zeros, spec)
