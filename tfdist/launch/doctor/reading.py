"""Reads the facts that another host has printed; nothing is evaluated."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from tfdist.launch.doctor.facts import Facts, Interface


def from_json(text: str) -> Facts:
    """Reads what another host has printed; unknown fields are left out.

    Raises:
        ValueError: If it is no JSON, or a field has another type than here.
    """
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("expected a JSON object")
    found["interfaces"] = [
        Interface(**_typed(each, Interface("")))
        for each in found.get("interfaces", [])
        if isinstance(each, dict)
    ]
    return Facts(**_typed(found, Facts()))


def _typed(found: Mapping[str, Any], default: Any) -> dict[str, Any]:
    values = {}
    for each in fields(default):
        if each.name not in found:
            continue
        value, expected = found[each.name], type(getattr(default, each.name))
        if expected is float and isinstance(value, int):
            value = float(value)
        parts: list[Any] = []
        if isinstance(value, list) and each.name != "interfaces":
            parts = value
        elif isinstance(value, dict):
            parts = [*value.keys(), *value.values()]
        if type(value) is not expected or not all(isinstance(p, str) for p in parts):
            raise ValueError(f"{each.name}: unexpected {value!r}")
        values[each.name] = value
    return values
