"""States of any shape, as JSON and named arrays.

Callbacks remember numbers, words, lists, dicts and arrays. JSON holds all but the
arrays, and numbers that JSON has no word for; an entry of one key, which begins with a
dollar sign, stands for what it cannot.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfdist.errors import explain

_ARRAY, _FLOAT, _TUPLE, _DICT = "$array", "$float", "$tuple", "$dict"


def split(state: Any, name: str, arrays: dict[str, Any]) -> Any:
    """Returns a state as plain JSON, and moves its arrays into a dict.

    Args:
        state: None, bools, numbers, strings, lists, tuples, dicts, NumPy's arrays and
            scalars, nested.
        name: Under which the arrays are put, with the way to them in the state.
        arrays: Gets the arrays, which are not copied.

    Raises:
        TypeError: Something else is in it.

    Example:
        >>> arrays = {}
        >>> split({"wait": 2, "best": [np.ones(3)]}, "stop", arrays)
        {'$dict': [['wait', 2], ['best', [{'$array': 'stop/best/0'}]]]}
    """
    if state is None or isinstance(state, bool | int | str):
        return state
    if isinstance(state, np.ndarray | np.generic):
        while name in arrays:  # {"a/b": ...} beside {"a": {"b": ...}}
            name += "'"
        arrays[name] = np.asarray(state)
        return {_ARRAY: name}
    if isinstance(state, float):
        return state if math.isfinite(state) else {_FLOAT: repr(state)}
    if isinstance(state, list | tuple):
        parts = [
            split(value, f"{name}/{number}", arrays)
            for number, value in enumerate(state)
        ]
        return {_TUPLE: parts} if isinstance(state, tuple) else parts
    if isinstance(state, Mapping) and all(isinstance(key, str) for key in state):
        # The order of a dict's keys is kept: JSON as a whole may be sorted.
        return {
            _DICT: [[key, split(state[key], f"{name}/{key}", arrays)] for key in state]
        }
    raise TypeError(
        explain(
            f"The state of {name} cannot be saved",
            received=f"a {type(state).__name__}",
            expected="numbers, strings, None, lists, dicts with strings as keys, and "
            "NumPy arrays",
            hint="Return only such from get_state().",
        )
    )


def join(plain: Any, arrays: Mapping[str, Any]) -> Any:
    """Undoes `split`.

    Raises:
        ValueError: It is not what `split` makes.
    """
    if isinstance(plain, list):
        return [join(value, arrays) for value in plain]
    if not isinstance(plain, dict):
        return plain
    try:
        ((kind, value),) = plain.items()
        return _READERS[kind](value, arrays)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            explain(
                "A saved state cannot be read",
                received=repr(plain)[:80],
                expected="what tfdist has written",
                hint="Start again in another directory.",
            )
        ) from error


_READERS: dict[str, Any] = {
    _ARRAY: lambda name, arrays: np.array(arrays[name]),
    _FLOAT: lambda word, _: float(word),
    _TUPLE: lambda parts, arrays: tuple(join(part, arrays) for part in parts),
    _DICT: lambda pairs, arrays: {key: join(value, arrays) for key, value in pairs},
}
