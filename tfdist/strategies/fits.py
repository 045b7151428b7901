"""What a running `fit` was called with, and what goes around it and Keras's others.

Keras tells callbacks neither the batch size nor that `fit` has failed, and strategies
nothing about a whole call. Whoever needs it wraps the public method of `keras.Model`
here; each is wrapped once, for models under every strategy and without any.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import keras

from tfdist.gradients import keras_names
from tfdist.strategies import endless


@dataclass(frozen=True)
class Call:
    """One call of a method of `keras.Model`."""

    model: Any
    name: str  # "fit", "evaluate", "predict", "train_on_batch", ...
    arguments: Mapping[str, Any]  # by name, as far as they were given
    ending: contextlib.ExitStack  # closed however the method ends
    loops: list[Any] = field(default_factory=list)  # Keras's, over the training data

    @property
    def initial_epoch(self) -> int:
        """The number of its first epoch, if it is not resumed."""
        return int(self.arguments.get("initial_epoch") or 0)


Around = Callable[[Call], AbstractContextManager[None]]

_running: list[Call] = []
_around: dict[str, list[Around]] = {}  # by the names of the methods that are wrapped


def install() -> None:
    """Notes the calls of `fit` from now on, and refuses what would never end."""
    for name in endless.METHODS:
        wrap(name, endless.refused)


def wrap(name: str, *around: Around) -> None:
    """Notes the calls of a method of `keras.Model`, and puts contexts around them.

    Args:
        name: The method's name.
        *around: What to enter for each call, each of them once in a process.
    """
    if name not in _around:
        _around[name] = []
        if name == "fit":
            loop = keras_names.epoch_iterator_class()
            loop.__init__ = _kept(loop.__init__)
        setattr(keras.Model, name, _noted(getattr(keras.Model, name), name))
    _around[name] += [each for each in around if each not in _around[name]]


def running(model: Any) -> Call | None:
    """Returns the call of `fit` that this model is in, if any."""
    calls = (call for call in reversed(_running) if call.name == "fit")
    return next((call for call in calls if call.model is model), None)


def _noted(method: Any, name: str) -> Any:
    signature = inspect.signature(method)

    @functools.wraps(method)
    def call(model: Any, *args: Any, **kwargs: Any) -> Any:
        arguments = signature.bind(model, *args, **kwargs).arguments
        with contextlib.ExitStack() as ending:
            this = Call(model, name, arguments, ending)
            _running.append(this)
            ending.callback(_running.pop)
            for around in _around[name]:
                ending.enter_context(around(this))
            return method(model, *args, **kwargs)

    return call


def _kept(construct: Any) -> Any:
    """Notes the first loop that Keras makes in a `fit`: that over the training data."""

    @functools.wraps(construct)
    def init(loop: Any, *args: Any, **kwargs: Any) -> None:
        construct(loop, *args, **kwargs)
        call = next((each for each in reversed(_running) if each.name == "fit"), None)
        if call is not None and not call.loops:
            call.loops.append(loop)

    return init
