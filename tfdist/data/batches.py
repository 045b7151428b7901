"""What `fit` is given: this process's pipeline, and how to begin it anywhere.

The order of epoch e follows from `(seed, e)`, and a pipeline is built to begin with any
step of any epoch. So a resumed run reads what comes next, not what came before.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from dataclasses import dataclass
from typing import Any, NamedTuple

import tensorflow as tf

from tfdist import cluster
from tfdist.data.pipeline import Source, build
from tfdist.errors import explain

_MARK = "_tfdist_recipe"


class Batches(NamedTuple):
    """What to give to `fit`: `fit(batches.dataset, steps_per_epoch=batches.steps)`."""

    # tf.data.Dataset; a DistributedDataset where the strategy makes one
    dataset: Any
    steps: int  # steps in one epoch, the same on every process


@dataclass(frozen=True)
class Recipe:
    """How a dataset was made."""

    source: Source
    strategy: Any  # tf.distribute.Strategy
    steps: int  # in an epoch
    by_files: bool  # what a step holds depends on the number of processes

    @property
    def order(self) -> dict[str, Any]:
        """What the order of the batches follows from, as plain data."""
        source = self.source
        return {
            "seed": source.seed,
            "block": source.shuffle_block,
            "batch": source.global_batch_size,
            "examples": sum(file.examples for file in source.files),
            "steps": self.steps,
            "start": [source.first_epoch, source.first_step],
            "processes": cluster.size() if self.by_files else None,
        }

    @property
    def identity(self) -> dict[str, Any]:
        """What has to be equal on all processes, as plain data.

        The folder may be another one on each of them, but not the files in it.
        """
        source = self.source
        files = [(os.path.basename(path), *rest) for path, *rest in source.files]
        return {
            **self.order,
            "shard": source.shard,
            "epochs": source.epochs_held,
            "files": hashlib.sha256(repr(files).encode()).hexdigest()[:8],
        }


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
    if processes > 1 and strategy.num_replicas_in_sync % processes:
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

    if processes == 1:
        plan = source.plan(1, 1)
        dataset = build(source, 1, 0)
    else:
        plan = source.plan(processes, strategy.num_replicas_in_sync // processes)
        dataset = strategy.distribute_datasets_from_function(read)
    recipe = Recipe(source, strategy, plan.steps, plan.by_files)
    setattr(dataset, _MARK, recipe)
    return Batches(dataset, plan.steps)


def recipe_of(dataset: Any) -> Recipe | None:
    """Returns how this very dataset was made here, if it was."""
    return getattr(dataset, _MARK, None)


def starting_at(batches: Batches, epoch: int, step: int) -> Batches:
    """Returns the same batches from a step of an epoch on.

    Only what comes next is read, but for the rest of one shuffled block. Custom loops
    resume with it; `tfdist.callbacks.CheckpointRecovery` does it for `fit`.

    Args:
        batches: What `from_tfrecords` or `from_tfds` returned.
        epoch: Number of the epoch, counted as `first_epoch` is.
        step: The step in the epoch, from 0 to `batches.steps - 1`.

    Raises:
        ValueError: They were not made here, or hold no such step.

    Example:
        >>> train = tfdist.data.from_tfrecords("train-*", parse, 64, seed=1)
        >>> train = tfdist.data.starting_at(train, epoch=3, step=120)
    """
    recipe = recipe_of(batches.dataset)
    dataset = None
    if recipe is not None and 0 <= step < recipe.steps:
        first = recipe.source.first_epoch * recipe.steps + recipe.source.first_step
        ahead = epoch * recipe.steps + step - first
        dataset = batches.dataset if ahead == 0 else advanced(batches.dataset, ahead)
    if dataset is None:
        raise ValueError(
            explain(
                "The batches cannot start there",
                received=f"epoch {epoch}, step {step}, of {batches}",
                expected="an epoch and a step that batches of tfdist.data hold",
                hint="Pass what from_tfrecords or from_tfds has returned.",
            )
        )
    return Batches(dataset, batches.steps)


def advanced(dataset: Any, steps: int) -> Any | None:
    """Returns a dataset of this module without its first steps, which are not read.

    Args:
        dataset: Any dataset.
        steps: Steps to leave out.

    Returns:
        None if the dataset was made elsewhere, or has no step left.
    """
    recipe = recipe_of(dataset)
    if recipe is None or steps < 0:
        return None
    source = recipe.source
    epochs, step = divmod(source.first_step + steps, recipe.steps)
    left = source.epochs_held
    if left != -1:
        left -= epochs
        if left <= 0:
            return None
    later = dataclasses.replace(
        source, first_epoch=source.first_epoch + epochs, first_step=step, epochs=left
    )
    return distribute(later, recipe.strategy).dataset
