"""A `tf.function` given to `strategy.run`: its replicas run inside of it."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import tensorflow as tf

_lifted: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


def can_lift(fn: Callable[..., Any]) -> bool:
    """Returns whether a function is to be lifted: a tf.function, called eagerly.

    What XLA compiles stays on each replica, without communication.
    """
    return (
        tf.executing_eagerly()
        and isinstance(fn, tf.types.experimental.PolymorphicFunction)
        and not fn._jit_compile
    )


def lifted(strategy: Any, fn: Any) -> Any:
    """Returns the tf.function that runs the Python function of `fn` on all replicas.

    As TensorFlow does it. Several replicas of one process, each of which calls a
    function of its own, would wait for one another's collectives for ever; and what
    the replica knows of its batch would be a constant in a function traced once.

    Args:
        strategy: A tfdist strategy.
        fn: See `can_lift`.
    """
    functions = _lifted.setdefault(strategy, weakref.WeakKeyDictionary())
    if fn not in functions:
        function = fn.python_function  # not `fn`, whose entry it would keep alive

        def run(*args: Any, **kwargs: Any) -> Any:
            return strategy.run(function, args=args, kwargs=kwargs)

        functions[fn] = fn._clone(python_function=run)  # with its options
    return functions[fn]
