"""What of a data pipeline would not come again in a new process.

Told before the first step: after a crash it is too late to hear that the run cannot be
resumed exactly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any

import tensorflow as tf

from tfdist.strategies.array_memory import function_nodes, runs_python
from tfdist.strategies.order import has_random_order, shuffle_seeds

# Stages that begin their input once, at their own beginning.
_BEGIN_INPUT_ONCE = (
    "_BatchDataset",
    "_FilterDataset",
    "_MapDataset",
    "_OptionsDataset",
    "_ParallelBatchDataset",
    "_ParallelMapDataset",
    "_PrefetchDataset",
    "_RebatchDataset",
    "_ShuffleDataset",
    "_SkipDataset",
    "_TakeDataset",
    "_UnbatchDataset",
    "_ZipDataset",
)

DRAWN_AHEAD = (
    "The dataset draws its next order in the middle of a pass (shuffle before repeat, "
    "cache or concatenate), sooner or later as it is prefetched. HINT: Shuffle after "
    "these, or call repeat() without a number and fit with steps_per_epoch."
)


class Outlasting(Enum):
    """What of one pass over the data the next pass depends on."""

    NOTHING = "nothing"
    BEGINNING = "that it began"  # a seeded shuffle draws an order
    ALL = "all that was taken"


def outlasting(dataset: tf.data.Dataset) -> Outlasting:
    """Returns what of one pass over a dataset the next pass depends on.

    A seeded `shuffle` draws, whenever it begins, the seeds of its next order; below a
    `repeat` that is whenever the data has been gone through.
    """
    stages = _stages(dataset)
    if not any(getattr(stage, "_reshuffle_each_iteration", False) for stage in stages):
        return Outlasting.NOTHING
    above = _above_shuffles(dataset)
    if all(type(stage).__name__ in _BEGIN_INPUT_ONCE for stage in above):
        return Outlasting.BEGINNING
    return Outlasting.ALL


def findings(
    kind: str, dataset: tf.data.Dataset | None, arguments: Mapping[str, Any]
) -> list[str]:
    """Returns what a resumed run could not repeat, each one a sentence with a hint.

    Args:
        kind: What `fit` was given, in words.
        dataset: What Keras made of it; None if that cannot be looked into.
        arguments: Those of `fit`.
    """
    found: list[str] = []
    if kind == "a dataset" and dataset is not None:
        found += _of_dataset(dataset)
    elif kind == "a PyDataset":
        found += _of_py_dataset(arguments["x"], arguments.get("shuffle", True))
    elif kind != "arrays":
        found.append(
            f"Of {kind} it cannot be told whether it gives the same batches in every "
            "run, as it must. HINT: Pass a tf.data.Dataset, arrays or a PyDataset."
        )
    validation = arguments.get("validation_data")
    if isinstance(validation, tf.data.Dataset) and shuffle_seeds(validation):
        found.append(
            "The validation data is shuffled: its results may differ in the last bits. "
            "HINT: Leave shuffle out of it."
        )
    return list(dict.fromkeys(found))


def _of_py_dataset(data: Any, shuffled: bool) -> Iterator[str]:
    if shuffled and (data.workers > 1 or data.use_multiprocessing):
        yield (
            "The workers of the PyDataset draw its order while the training goes on. "
            "HINT: Call fit(..., shuffle=False), and reorder it in on_epoch_end."
        )


def _of_dataset(dataset: tf.data.Dataset) -> Iterator[str]:
    if has_random_order(dataset):
        yield (
            "The dataset is shuffled in another order in every run. HINT: Call "
            "tfdist.set_seed(1) at the start of the script."
        )
    if runs_python(dataset):
        yield (
            "Python code makes the data (from_generator, py_function, numpy_function): "
            "it must give the same examples in every run. HINT: Draw in it only from "
            "generators with a seed of their own."
        )
    relaxed = dataset.options().deterministic is False
    for stage in _stages(dataset):
        yield from _of_stage(stage, relaxed)


def _of_stage(stage: tf.data.Dataset, relaxed: bool) -> Iterator[str]:
    parallel = "Parallel" in type(stage).__name__
    if parallel and _is_deterministic(stage) is not True:
        if relaxed or _is_deterministic(stage) is False:
            yield (
                "The dataset delivers its examples in whatever order they are ready. "
                "HINT: Leave deterministic=False out of map, batch and interleave, "
                "and options.deterministic at its default."
            )
    for node in function_nodes(stage):
        if node.op.startswith("Assign"):
            yield (
                "A function of the dataset changes a variable (random Keras layers do) "
                "while other examples are prefetched. HINT: Put such layers into the "
                "model, or use tf.random.stateless_* with a counter."
            )
        elif "seed2" in node.attr:
            if not node.attr["seed"].i and not node.attr["seed2"].i:
                yield (
                    f"A function of the dataset draws random numbers ({node.op}) "
                    "without a seed. HINT: Call tfdist.set_seed(1) at the start of "
                    "the script."
                )
            elif parallel:
                yield (
                    f"A function of the dataset draws random numbers ({node.op}) in "
                    "parallel calls, in whatever order these come. HINT: Use "
                    "tf.random.stateless_* with a counter as seed, or leave "
                    "num_parallel_calls out."
                )


def _is_deterministic(stage: tf.data.Dataset) -> bool | None:
    """Returns what a stage was told; None is the default."""
    told = getattr(stage, "_deterministic", None)
    if told is None and type(stage).__name__ == "_ParallelInterleaveDataset":
        told = _told_in_graph(stage)
    return {"true": True, "false": False}.get(str(told))


def _told_in_graph(stage: tf.data.Dataset) -> str:
    """Reads what the stage itself does not remember."""
    policy = tf.data.experimental.ExternalStatePolicy.IGNORE
    graph = tf.compat.v1.GraphDef.FromString(
        stage._as_serialized_graph(external_state_policy=policy).numpy()
    )
    last = [node for node in graph.node if node.op.startswith("ParallelInterleave")][-1]
    return last.attr["deterministic"].s.decode()


def _stages(dataset: tf.data.Dataset) -> Iterator[tf.data.Dataset]:
    yield dataset
    for source in dataset._inputs():
        yield from _stages(source)


def _above_shuffles(dataset: tf.data.Dataset) -> Iterator[tf.data.Dataset]:
    """Yields the stages between the last one and each shuffle, that too."""
    if shuffle_seeds(dataset):
        yield dataset
        for source in dataset._inputs():
            yield from _above_shuffles(source)
