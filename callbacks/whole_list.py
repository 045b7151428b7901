"""Callbacks that act when all others of a `fit` have not, or have, had their turn."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras

_EVENTS = (
    "train_begin",
    "epoch_begin",
    "train_batch_begin",
    "train_batch_end",
    "epoch_end",
    "train_end",
    "test_begin",
    "test_batch_end",
)
_wrapped = False


class Outermost(keras.callbacks.Callback):
    """A callback whose hooks come before, and after, those of all others.

    Keras calls the callbacks of a list one after the other. What saves the states of
    all of them has to come when the last one is done with a step, and what puts them
    back before the first one asks for them, wherever in the list it stands. Keras's
    `CallbackList` therefore calls the methods below around its own.
    """

    def __init__(self) -> None:
        super().__init__()
        self.whole_list: Sequence[keras.callbacks.Callback] = ()
        _install()

    def before_train_begin(self, logs: Any = None) -> None:
        """Called before any `on_train_begin`; `whole_list` is known."""

    def after_train_begin(self, logs: Any = None) -> None:
        """Called after every `on_train_begin`."""

    def before_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Called before any `on_epoch_begin`."""

    def after_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Called after every `on_epoch_begin`."""

    def before_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Called before any `on_train_batch_begin`."""

    def after_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Called after every `on_train_batch_begin`."""

    def before_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Called before any `on_train_batch_end`."""

    def after_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Called after every `on_train_batch_end`."""

    def before_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Called before any `on_epoch_end`."""

    def after_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Called after every `on_epoch_end`."""

    def before_train_end(self, logs: Any = None) -> None:
        """Called before any `on_train_end`."""

    def after_train_end(self, logs: Any = None) -> None:
        """Called after every `on_train_end`."""

    def before_test_begin(self, logs: Any = None) -> None:
        """Called before any `on_test_begin`."""

    def after_test_begin(self, logs: Any = None) -> None:
        """Called after every `on_test_begin`."""

    def before_test_batch_end(self, batch: int, logs: Any = None) -> None:
        """Called before any `on_test_batch_end`."""

    def after_test_batch_end(self, batch: int, logs: Any = None) -> None:
        """Called after every `on_test_batch_end`."""


def _install() -> None:
    """Wraps the methods of Keras's `CallbackList`, once in a process."""
    global _wrapped
    if _wrapped:
        return
    lists = keras.callbacks.CallbackList
    for event in _EVENTS:
        name = f"on_{event}"
        setattr(lists, name, _surrounded(getattr(lists, name), event))
    _wrapped = True


def _surrounded(method: Callable[..., None], event: str) -> Callable[..., None]:
    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> None:
        outermost = [each for each in self.callbacks if isinstance(each, Outermost)]
        for each in outermost:
            each.whole_list = self.callbacks
            getattr(each, f"before_{event}")(*args, **kwargs)
        method(self, *args, **kwargs)
        for each in outermost:
            getattr(each, f"after_{event}")(*args, **kwargs)

    return call
