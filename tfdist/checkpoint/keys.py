"""Names for all that a model and its optimizer remember, that a new process gives too.

Keras numbers names by what the process has made before (`dense_2`), so that the same
script, started again in a notebook, calls the same kernel otherwise. Here a variable is
named by its place: the numbers and classes of the layers around it, and its own name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

import keras
import tensorflow as tf

MODEL, OPTIMIZER, METRICS = "model", "optimizer", "metrics"

_UNNAMED = re.compile(r"variable(_\d+)?")


def model_variables(model: keras.Model) -> dict[str, Any]:
    """Returns all variables of a model by their places, seed states included.

    Layers may be nested, shared (the first place counts), frozen, in lists and dicts.

    Example:
        >>> list(model_variables(keras.Sequential([keras.Input((2,)), Dense(1)])))
        ['model/0.InputLayer', 'model/1.Dense/kernel', 'model/1.Dense/bias']
    """
    found: dict[int, tuple[str, Any]] = {}
    for path, variable in _walk(model, MODEL, {}):
        found.setdefault(id(variable), (path, variable))
    metrics = {id(variable) for variable in model.metrics_variables}
    return _numbered(
        (path, variable)
        for number, (path, variable) in found.items()
        if number not in metrics
    )


def layer_places(model: keras.Model) -> list[str]:
    """Returns the places of all layers: what a model is made of, without names."""
    places: dict[int, str] = {}
    for _ in _walk(model, MODEL, places):
        pass
    return list(places.values())


def unlisted_state(model: keras.Model) -> list[str]:
    """Returns attributes with state of TensorFlow's, which Keras does not list."""
    kinds = (tf.Variable, tf.random.Generator)
    return [
        f"{layer.name}.{name}"
        for layer in model._flatten_layers()
        for name, value in vars(layer).items()
        if isinstance(value, kinds)
    ]


def optimizer_variables(optimizer: Any, weights: Mapping[str, Any]) -> dict[str, Any]:
    """Returns all variables of an optimizer: slots by the weight that they belong to.

    Args:
        optimizer: A built optimizer, also inside others; None has none.
        weights: The model's variables by place.
    """
    if optimizer is None:
        return {}
    # Keras names a slot by the path of its weight and what it is.
    by_prefix = {
        f"{weight.path.replace('/', '_')}_": place for place, weight in weights.items()
    }
    longest_first = sorted(by_prefix, key=len, reverse=True)

    def place_of(variable: Any) -> str:
        name = variable.name
        prefix = next((each for each in longest_first if name.startswith(each)), None)
        if prefix is None:
            return f"{OPTIMIZER}/{_name(variable)}"
        place = by_prefix[prefix].removeprefix(f"{MODEL}/")
        return f"{OPTIMIZER}/{_quoted(name.removeprefix(prefix))}/{place}"

    return _numbered((place_of(variable), variable) for variable in optimizer.variables)


def metric_variables(model: keras.Model) -> dict[str, Any]:
    """Returns the variables of all metrics, in their order."""
    return {
        f"{METRICS}/{number}.{_name(variable)}": variable
        for number, variable in enumerate(model.metrics_variables)
    }


def _walk(layer: Any, place: str, places: dict[int, str]) -> Iterator[tuple[str, Any]]:
    """Yields (place, variable) of a layer's own variables, then of its children's."""
    if id(layer) in places:
        return
    places[id(layer)] = place
    children = layer._flatten_layers(include_self=False, recursive=False)
    inherited = {id(variable) for child in children for variable in child.variables}
    for variable in layer.variables:
        if id(variable) not in inherited:
            yield f"{place}/{_name(variable)}", variable
    for number, child in enumerate(children):
        yield from _walk(child, f"{place}/{number}.{type(child).__name__}", places)


def _numbered(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Returns a dict; a name that comes again gets a number."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        unique, count = name, 1
        while unique in found:
            unique, count = f"{name}#{count}", count + 1
        found[unique] = value
    return found


def _name(variable: Any) -> str:
    """Returns a variable's name; without the number that Keras gives to one without."""
    return "variable" if _UNNAMED.fullmatch(variable.name) else _quoted(variable.name)


def _quoted(name: str) -> str:
    """Returns a name without slashes, control characters, or whatever else."""
    return quote(name, safe=" ,:;=()[]@+-")
