"""What a running `fit` was called with, and what has to end with it.

Keras tells callbacks neither the batch size nor that `fit` has failed. The first
callback that needs one of them wraps `keras.Model.fit`, under every strategy and
without any; nothing else about `fit` changes.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import keras

from tfdist.gradients import keras_names


@dataclass(frozen=True)
class Fit:
    """One call of `fit`."""

    model: Any
    arguments: Mapping[str, Any]  # by name, as far as they were given
    ending: contextlib.ExitStack  # closed however `fit` ends
    loops: list[Any] = field(default_factory=list)  # Keras's, over the training data

    @property
    def initial_epoch(self) -> int:
        """The number of its first epoch, if it is not resumed."""
        return int(self.arguments.get("initial_epoch") or 0)


_running: list[Fit] = []
_wrapped = False


def install() -> None:
    """Wraps `keras.Model.fit`, once in a process."""
    global _wrapped
    if not _wrapped:
        keras.Model.fit = _noted(keras.Model.fit)
        loop = keras_names.epoch_iterator_class()
        loop.__init__ = _kept(loop.__init__)
        _wrapped = True


def running(model: Any) -> Fit | None:
    """Returns the call of `fit` that this model is in, if any."""
    return next((fit for fit in reversed(_running) if fit.model is model), None)


def _noted(method: Any) -> Any:
    signature = inspect.signature(method)

    @functools.wraps(method)
    def fit(model: Any, *args: Any, **kwargs: Any) -> Any:
        arguments = signature.bind(model, *args, **kwargs).arguments
        with contextlib.ExitStack() as ending:
            _running.append(Fit(model, arguments, ending))
            ending.callback(_running.pop)
            return method(model, *args, **kwargs)

    return fit


def _kept(construct: Any) -> Any:
    """Notes the first loop that Keras makes in a `fit`: that over the training data."""

    @functools.wraps(construct)
    def init(loop: Any, *args: Any, **kwargs: Any) -> None:
        construct(loop, *args, **kwargs)
        if _running and not _running[-1].loops:
            _running[-1].loops.append(loop)

    return init
