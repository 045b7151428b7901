"""Keeps TensorFlow from writing into the user's arrays.

A tensor made from a numpy array by a Python function (`from_generator`,
`keras.utils.PyDataset`, `tf.numpy_function`) shares the array's memory. TensorFlow
marks it as not its own, but forgets that on a slice of it: an operation on the slice
may then write its result into the array, and the next epoch trains on it. TensorFlow
2.21 does so; 2.18.1 did not in 30 attempts. Splitting a global batch between replicas
makes such slices, so rows are copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

_PYTHON_OPERATIONS = {"PyFunc", "PyFuncStateless", "EagerPyFunc"}


def copied_rows(value: Any, start: Any, stop: Any) -> Any:
    """Returns rows `start` to `stop` of a tensor, in memory of their own."""
    return tf.gather(value, tf.range(start, stop))


def owning(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Returns the dataset with its arrays in TensorFlow's memory, safe to be sliced.

    Only what comes out of a Python function is copied, once, one batch at a time.
    """
    if not runs_python(dataset):
        return dataset

    def copied(value: tf.Tensor) -> tf.Tensor:
        rows = value.shape[0]
        return copied_rows(value, 0, tf.shape(value)[0] if rows is None else rows)

    def all_copied(value: Any) -> Any:
        return tf.nest.map_structure(copied, value, expand_composites=True)

    return dataset.map(on_parts(dataset, all_copied))


def on_parts(
    dataset: tf.data.Dataset, function: Callable[[Any], Any]
) -> Callable[..., Any]:
    """Returns what `dataset.map` needs to apply a function to each part of an element.

    The element keeps its structure, also that of one part: `((a, b),)`. Only what
    cannot be split is left out at its end: Keras makes an empty Optional of the None in
    a generator's `(x, y, None)`.
    """
    is_unpacked = isinstance(dataset.element_spec, tuple)

    def apply(*parts: Any) -> Any:
        while isinstance(parts[-1], tf.experimental.Optional):
            parts = parts[:-1]
        return tf.nest.map_structure(function, parts if is_unpacked else parts[0])

    return apply


def runs_python(dataset: tf.data.Dataset) -> bool:
    """Returns whether Python code makes some of the elements."""
    return any(
        node.op in _PYTHON_OPERATIONS for node in function_nodes(dataset)
    ) or any(runs_python(source) for source in dataset._inputs())


def function_nodes(dataset: tf.data.Dataset) -> Iterator[Any]:
    """Yields the operations of the functions of a dataset's last stage."""
    for function in dataset._functions():
        yield from graph_nodes(function.function.graph)


def graph_nodes(graph: tf.Graph) -> Iterator[Any]:
    """Yields the operations of a graph and of all functions that it calls."""
    definition = graph.as_graph_def()
    yield from definition.node
    for inner in definition.library.function:
        yield from inner.node_def
