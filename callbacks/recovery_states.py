"""The states of all callbacks of a `fit`: gathered for a checkpoint, and given back."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras

from tfdist.checkpoint.states import join, split
from tfdist.errors import explain

from . import keras_states

PREFIX = "callbacks"


def own_states(callbacks: Iterable[Any], arrays: dict[str, Any]) -> dict[str, Any]:
    """Returns what this process's callbacks with `get_state` remember, as JSON.

    Args:
        callbacks: All callbacks.
        arrays: Gets their arrays.
    """
    return {
        name: split(callback.get_state(), f"{PREFIX}/{name}", arrays)
        for name, callback in _named(callbacks)
        if hasattr(callback, "get_state")
    }


def common_states(callbacks: Iterable[Any], arrays: dict[str, Any]) -> dict[str, Any]:
    """Returns what Keras's callbacks remember, alike on all ranks, as JSON.

    Args:
        callbacks: All callbacks.
        arrays: Gets their arrays.
    """
    states = {
        name: keras_states.state_of(callback)
        for name, callback in _named(callbacks)
        if not hasattr(callback, "get_state")
    }
    return {
        name: split(state, f"{PREFIX}/{name}", arrays)
        for name, state in states.items()
        if state is not None
    }


def is_of_callback(name: str) -> bool:
    """Returns whether an array of a file is one that a callback remembers."""
    return name.startswith(f"{PREFIX}/")


def refuse_half_states(callbacks: Iterable[Any]) -> None:
    """Raises ValueError if what a callback remembers could be saved, but not put back.

    After a crash it would be too late to hear that.
    """
    for callback in callbacks:
        found = [name for name in ("get_state", "set_state") if hasattr(callback, name)]
        if len(found) == 1:
            raise ValueError(
                explain(
                    f"What {type(callback).__name__} remembers cannot be saved",
                    received=f"a callback with {found[0]} alone",
                    expected="get_state and set_state, or neither",
                    hint="get_state() returns plain data and NumPy arrays, and "
                    "set_state(states) gets a list of those of all processes.",
                )
            )


def try_states(callbacks: Iterable[Any]) -> None:
    """Raises TypeError if the state of a user's callback holds what cannot be saved."""
    own_states([callback for callback in callbacks if not _is_ours(callback)], {})


class SavedStates:
    """The states of a checkpoint, and which callbacks they belong to now.

    A callback is found again by its class and its number among those of its class: one
    that was added to the list, or left out, does not shift the others.

    Args:
        callbacks: All callbacks now.
        common: What `common_states` returned, with `common_arrays`.
        own: What `own_states` returned on each process, with `own_arrays`.
    """

    def __init__(
        self,
        callbacks: Iterable[Any],
        common: Mapping[str, Any],
        common_arrays: Mapping[str, Any],
        own: Sequence[Mapping[str, Any]],
        own_arrays: Sequence[Mapping[str, Any]],
    ) -> None:
        self._callbacks = dict(_named(callbacks))
        self._common = {
            name: join(state, common_arrays) for name, state in common.items()
        }
        self._own = {
            name: [
                join(states[name], arrays)
                for states, arrays in zip(own, own_arrays, strict=True)
            ]
            for name in own[0]
        }

    @property
    def changes(self) -> list[str]:
        """What was added to the list of callbacks, or left out, in words."""
        present = {
            name
            for name, callback in self._callbacks.items()
            if hasattr(callback, "get_state") or keras_states.state_of(callback)
        }
        saved = self._common.keys() | self._own.keys()
        added = [f"{name} begins anew" for name in sorted(present - saved)]
        return added + [f"{name} is left out" for name in sorted(saved - present)]

    def keep_files(self) -> None:
        """Keeps the files that an `on_train_begin` would begin anew."""
        for callback in self._callbacks.values():
            keras_states.keep_files(callback)

    def give_before(self, is_chief: bool) -> None:
        """Gives back what has to be there before any `on_train_begin`."""
        for name, states in self._own.items():
            if name in self._callbacks:
                self._give(name, states)
        for name, state in self._common.items():
            if is_chief and name in self._callbacks:
                keras_states.shorten_file(self._callbacks[name], state)
        self.keep_files()

    def give_after(self) -> None:
        """Gives back what `on_train_begin`, or the beginning of an epoch, has reset.

        tfdist's own callbacks do not reset what they were given.
        """
        for name, states in self._own.items():
            if name in self._callbacks and not _is_ours(self._callbacks[name]):
                self._give(name, states)
        for name, state in self._common.items():
            if name in self._callbacks:
                keras_states.set_state(self._callbacks[name], state)

    def _give(self, name: str, states: list[Any]) -> None:
        callback = self._callbacks[name]
        # A user's callback may go on with the very lists that it is given.
        callback.set_state(states if _is_ours(callback) else copy.deepcopy(states))


def _is_ours(callback: Any) -> bool:
    """Returns whether a callback is one of tfdist's, or derived from one."""
    return any(k.__module__.startswith("tfdist.") for k in type(callback).__mro__)


def _named(callbacks: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """Yields (class#number, callback)."""
    counts: dict[str, int] = {}
    for callback in callbacks:
        kinds = type(callback)
        name = kinds.__name__
        if kinds is keras.callbacks.ProgbarLogger:
            continue
        number = counts.get(name, 0)
        counts[name] = number + 1
        yield f"{name}#{number}", callback
