"""Random operations of a training step whose state TensorFlow tells nobody.

`tf.random.normal` and the like, with a seed or without, count in their kernels what
they have drawn. That can be neither read nor set, so that in a new process they begin
anew; unlike `keras.random`, whose seed generators are variables.
"""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from tfdist.strategies import fits
from tfdist.strategies.array_memory import graph_nodes
from tfdist.strategies.steps import replaced

_FOUND: weakref.WeakKeyDictionary[Any, set[str]] = weakref.WeakKeyDictionary()


@contextlib.contextmanager
def noted(call: fits.Call) -> Iterator[None]:
    """Looks, in one `fit`, at each training step that is traced, once it has been."""
    model = call.model
    step, found = model.train_step, _FOUND.setdefault(model, set())

    @functools.wraps(step)
    def traced(*args: Any, **kwargs: Any) -> Any:
        outputs = step(*args, **kwargs)
        if not tf.executing_eagerly():
            found.update(_drawing(tf.compat.v1.get_default_graph()))
        return outputs

    with replaced(model, "train_step", traced):
        yield


def drawn_by(model: Any) -> list[str]:
    """Returns the kinds of these operations in a model's step, as far as traced."""
    return sorted(_FOUND.get(model, ()))


def _drawing(graph: tf.Graph) -> Iterator[str]:
    for node in graph_nodes(graph):
        # A recurrent layer's kernel has seeds for a dropout that it may not have.
        idle = "dropout" in node.attr and not node.attr["dropout"].f
        if "seed2" in node.attr and not idle:
            yield node.op
