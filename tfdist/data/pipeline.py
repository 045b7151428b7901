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

from tfdist import cluster
from tfdist.data.plan import Plan, make_plan
from tfdist.errors import explain

_ENDLESS = np.iinfo(np.int64).max  # epochs
_SEED_LIMIT = 2**63  # seeds of tf.random.stateless_* are signed 64-bit integers


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


class Batches(NamedTuple):
    """What to give to `fit`: `fit(batches.dataset, steps_per_epoch=batches.steps)`."""

    dataset: Any  # tf.data.Dataset; over several processes a DistributedDataset
    steps: int  # steps in one epoch, the same on every process


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


def distribute(source: Source, strategy: tf.distribute.Strategy | None) -> Batches:
    """Builds this process's pipeline for a strategy.

    One process gets an ordinary dataset of global batches, which the strategy splits
    between its devices like any other. Several processes get what
    `strategy.distribute_datasets_from_function` makes of each one's own batches.

    Args:
        source: The data.
        strategy: The strategy to read for; None takes the current one.

    Raises:
        ValueError: Several processes, but no strategy that connects them.
    """
    strategy = strategy or tf.distribute.get_strategy()
    processes = cluster.size()
    if processes == 1:
        return Batches(build(source, 1, 0), source.plan(1, 1).steps)
    if strategy.num_replicas_in_sync % processes:
        raise ValueError(
            explain(
                "The data was asked for outside the strategy that shares it",
                received=f"a strategy of {strategy.num_replicas_in_sync} replicas "
                f"in a job of {processes} processes",
                expected="at least one replica for each process",
                hint="Call it inside `with strategy.scope():` or pass strategy=.",
            )
        )

    def read(context: tf.distribute.InputContext) -> tf.data.Dataset:
        return build(
            source,
            context.num_input_pipelines,
            context.input_pipeline_id,
            context.num_replicas_in_sync // context.num_input_pipelines,
        )

    replicas = strategy.num_replicas_in_sync // processes
    dataset = strategy.distribute_datasets_from_function(read)
    return Batches(dataset, source.plan(processes, replicas).steps)


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
    rows = int(plan.sizes[:, process].sum())

    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        files = [source.files[index] for index in plan.files[process]]
        records = _read(source, files, epoch)
        if processes > 1 and not plan.by_files:
            records = _keep_own(records, plan, process, source.global_batch_size)
        records = records.take(rows)
        examples = records.map(source.parse, tf.data.AUTOTUNE, deterministic=True)
        return _batch(examples, plan, process)

    epochs = source.epochs_held
    last = _ENDLESS if epochs == -1 else source.first_epoch + epochs
    dataset = tf.data.Dataset.range(source.first_epoch, last).flat_map(one_epoch)
    if epochs == -1:
        known = tf.data.INFINITE_CARDINALITY
    elif replicas == 1:
        known = epochs * plan.steps
    else:
        # Keras takes the cardinality for the number of steps, but this dataset holds
        # `replicas` elements a step.
        known = tf.data.UNKNOWN_CARDINALITY
    if known != tf.data.UNKNOWN_CARDINALITY:
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(known))
    return dataset.prefetch(tf.data.AUTOTUNE)


def _read(source: Source, files: list[FileSlice], epoch: tf.Tensor) -> tf.data.Dataset:
    """Returns the serialized records of `files` in the order of an epoch."""
    paths, *numbers = zip(*files, strict=True)
    table = (tf.constant(paths), *(tf.constant(n, tf.int64) for n in numbers))
    if source.seed is not None:
        seed = tf.stack([tf.constant(source.seed, tf.int64), epoch])
        order = _shuffle(tf.range(len(files)), seed, 0)
        table = tuple(tf.gather(column, order) for column in table)

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
    def shuffle_block(block: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        return _shuffle(rows, seed, block)

    blocks = records.batch(source.shuffle_block).enumerate(1)
    return blocks.map(shuffle_block).unbatch()


def _shuffle(rows: tf.Tensor, seed: tf.Tensor, stream: int | tf.Tensor) -> tf.Tensor:
    key = tf.random.experimental.stateless_fold_in(seed, stream, alg="philox")
    order = tf.random.experimental.stateless_shuffle(
        tf.range(tf.shape(rows)[0]), key, alg="philox"
    )
    return tf.gather(rows, order)


def _keep_own(
    records: tf.data.Dataset, plan: Plan, process: int, global_batch_size: int
) -> tf.data.Dataset:
    """Drops, before parsing, the rows of each global batch that others train on."""
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
