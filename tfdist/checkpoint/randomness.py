"""The random states of a process, beside those that layers hold.

Python's, NumPy's legacy one, TensorFlow's seeds for eager operations, its global
generator, and the one from which Keras draws where no seed is given. A stateful random
operation inside a `tf.function` (`tf.random.normal`, unlike `keras.random.normal`)
keeps its state to itself: it begins anew in a new process, whatever is done here.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from tensorflow.python.eager import context
from tensorflow.python.ops import stateful_random_ops

from tfdist.checkpoint import replicas
from tfdist.gradients import keras_names


def random_state() -> dict[str, Any]:
    """Returns the random states of this process; arrays and plain data."""
    name, key, position, has_gauss, gauss = np.random.get_state()
    return {
        "python": _packed(random.getstate()),
        "numpy": [name, key, position, has_gauss, gauss],
        "tensorflow": None if _seeds() is None else _packed(_seeds().getstate()),
        "generator": _first_copy(_generator_state()),
        "keras": _first_copy(_keras_state()),
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Undoes `random_state`."""
    random.setstate(_unpacked(state["python"]))
    np.random.set_state(tuple(state["numpy"]))
    if state["tensorflow"] is not None and _seeds() is not None:
        _seeds().setstate(_unpacked(state["tensorflow"]))
    if state["generator"] is not None:
        stateful_random_ops.get_global_generator()
        _assign(_generator_state(), state["generator"])
    if state["keras"] is not None:
        keras_names.global_seed_generator(create=True)
        _assign(_keras_state(), state["keras"])


def _packed(state: tuple[Any, ...]) -> list[Any]:
    version, words, gauss = state
    return [version, np.array(words, np.uint32), gauss]


def _unpacked(state: list[Any]) -> tuple[Any, ...]:
    version, words, gauss = state
    return version, tuple(int(word) for word in words), gauss


def _seeds() -> Any:
    """Returns what draws the seeds of eager operations; None without a global seed."""
    return getattr(context.context(), "_rng", None)


def _generator_state() -> Any:
    generator = stateful_random_ops.global_generator
    return None if generator is None else generator.state


def _keras_state() -> Any:
    generator = keras_names.global_seed_generator()
    return None if generator is None else generator.state


def _first_copy(variable: Any) -> Any:
    if variable is None:
        return None
    return replicas.read(replicas.copies_of(variable)[0])


def _assign(variable: Any, value: Any) -> None:
    for copy in replicas.copies_of(variable):
        copy.assign(value)
