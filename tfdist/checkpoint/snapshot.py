"""The variables of a model and its optimizer: what of them is saved, and put back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist.checkpoint import keys, replicas
from tfdist.gradients import keras_names

Arrays = dict[str, np.ndarray[Any, Any]]


class Snapshot:
    """All variables that decide the training, by their places.

    Most are equal on all replicas, and are saved once. What replicas change on their
    own is saved by each process for its replicas, with a leading dimension: metrics,
    gradients that wait for an update, what layers learn without gradients (moving
    statistics), and everything where replicas train on their own.

    Args:
        model: A built model.
        optimizer: Its optimizer, built; or None.
        apart: Whether the replicas' weights differ (LocalSGD).
    """

    def __init__(
        self, model: keras.Model, optimizer: Any, *, apart: bool = False
    ) -> None:
        keras_names.require(model, keras_names.LAYER)
        self.layers = keys.layer_places(model)
        self.optimizers = [type(each).__name__ for each in _chain(optimizer)]
        weights = keys.model_variables(model)
        slots = keys.optimizer_variables(optimizer, weights)
        self._variables = {**weights, **slots}
        self._metrics = keys.metric_variables(model)
        untrainable = {
            id(variable)
            for layer in model._flatten_layers()
            for variable in keras_names.made_untrainable(layer)
        }
        self._own = {
            place
            for place, variable in self._variables.items()
            if apart
            or id(variable) in untrainable
            or place.startswith(replicas.ACCUMULATOR)
        }

    def capture(self, *, metrics: bool, common: bool) -> tuple[Arrays, Arrays]:
        """Returns (what is equal on all replicas, what is this process's own).

        The arrays may share the variables' memory; copy them before the next step.

        Args:
            metrics: Whether metrics matter: in the middle of an epoch.
            common: Whether to read what is equal on all replicas.
        """
        shared: Arrays = {}
        own: Arrays = {}
        for place, variable in self._all(metrics):
            copies = replicas.copies_of(variable)
            if place in self._own or place in self._metrics:
                own[place] = np.stack([replicas.read(copy) for copy in copies])
            elif common:
                shared[place] = replicas.read(copies[0])
        return shared, own

    def own_metrics(self) -> Arrays:
        """Returns the metrics of this process's replicas; copies."""
        return {
            place: np.stack(
                [replicas.read(copy) for copy in replicas.copies_of(metric)]
            )
            for place, metric in self._metrics.items()
        }

    def differences(
        self, common: Mapping[str, Any], own: Mapping[str, Any], *, metrics: bool
    ) -> list[str]:
        """Returns in what a checkpoint does not fit, one line each; empty if it does.

        Args:
            common: What was saved once: name -> array.
            own: What a process saved for its replicas.
            metrics: Whether metrics matter.
        """
        saved = {place: (array.shape, array.dtype) for place, array in common.items()}
        for place, array in own.items():
            saved[place] = (array.shape[1:], array.dtype)
        present = {place: _facts(variable) for place, variable in self._all(metrics)}
        lines = [
            f"{place}: {_words(saved[place])} in the checkpoint, "
            f"{_words(present[place])} in the model"
            for place in present
            if place in saved and saved[place] != present[place]
        ]
        lines += [f"{place}: only in the model" for place in present.keys() - saved]
        lines += [
            f"{place}: only in the checkpoint" for place in saved.keys() - present
        ]
        return sorted(lines)

    def fits(self, place: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
        """Returns whether a variable is there, of a shape and dtype."""
        variable = self._variables.get(place)
        return variable is not None and _facts(variable) == (shape, dtype)

    @property
    def size(self) -> int:
        """Bytes of all variables."""
        return sum(
            int(np.prod(shape)) * dtype.itemsize
            for shape, dtype in map(_facts, self._variables.values())
        )

    def assign(
        self,
        common: Mapping[str, Any],
        own: Mapping[str, Sequence[Any]],
        *,
        first: int,
        replicas_in_sync: int,
        metrics: bool,
    ) -> None:
        """Puts back what was saved; places that are missing stay as they are.

        Args:
            common: What was saved once.
            own: What each process has saved for its replicas, in order of rank.
            first: The first replica of this process.
            replicas_in_sync: Of all processes.
            metrics: Whether metrics are put back too.
        """
        for place, variable in self._all(metrics):
            copies = replicas.copies_of(variable)
            if place in common:
                values = [common[place]] * len(copies)
            elif place in own:
                dealt = replicas.shares(own[place], place, replicas_in_sync)
                values = list(dealt[first : first + len(copies)])
            else:
                continue
            for copy, value in zip(copies, values, strict=True):
                copy.assign(value, read_value=False)

    def _all(self, metrics: bool) -> Iterator[tuple[str, Any]]:
        yield from self._variables.items()
        if metrics:
            yield from self._metrics.items()


def _chain(optimizer: Any) -> Iterator[Any]:
    while optimizer is not None:
        yield optimizer
        optimizer = getattr(optimizer, "inner_optimizer", None)


def _facts(variable: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    dtype = tf.as_dtype(variable.dtype).as_numpy_dtype
    return tuple(variable.shape), np.dtype(dtype)


def _words(facts: tuple[Any, Any]) -> str:
    shape, dtype = facts
    return f"{dtype}{list(shape)}"
