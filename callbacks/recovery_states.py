"""The states of all callbacks of a `fit`: gathered for a checkpoint, and given back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras

from tfdist.checkpoint.states import join, split

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

    def give_before(self, is_chief: bool) -> None:
        """Gives back what has to be there before any `on_train_begin`."""
        for name, states in self._own.items():
            if name in self._callbacks:
                self._callbacks[name].set_state(states)
        for name, state in self._common.items():
            if is_chief and name in self._callbacks:
                keras_states.prepare(self._callbacks[name], state)

    def give_after(self) -> None:
        """Gives back what `on_train_begin` has reset."""
        for name, state in self._common.items():
            if name in self._callbacks:
                keras_states.set_state(self._callbacks[name], state)


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
