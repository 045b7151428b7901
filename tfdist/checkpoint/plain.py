"""Plain data: what JSON can hold, checked when it goes in and when it comes back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tfdist.checkpoint.errors import DamagedError
from tfdist.errors import explain


def plain_copy(value: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Returns a copy of plain data as a manifest will give it back: tuples as lists.

    Numbers are exact. Infinities and NaN, such as the best value of a metric before the
    first epoch, stand in the file as Python writes them: `Infinity`, `NaN`.

    Raises:
        ValueError: There is something in it that JSON has not.
    """
    try:
        return dict(json.loads(json.dumps(dict(value)), object_pairs_hook=_unique_keys))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            explain(
                f"The {what} cannot be written as JSON",
                received=str(error),
                expected="dicts with strings as keys, lists, strings, numbers, None",
                hint="Hand arrays in as arrays, NumPy's numbers as int(x) or float(x).",
            )
        ) from error


def decode_json(data: bytes, path: str) -> dict[str, Any]:
    """Returns a JSON object in a file; `path` is for messages.

    Raises:
        DamagedError: It is none, or a key comes twice.
    """
    try:
        fields = json.loads(data, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path} is no readable JSON") from error
    if not isinstance(fields, dict):
        raise DamagedError(f"{path} is no JSON object")
    return fields


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Of a key that comes twice, two readers could see two values.
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a key comes twice")
    return fields
