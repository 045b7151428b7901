"""Compressors by name, by object, and as plain data."""

from __future__ import annotations

import inspect
from typing import Any

from tfdist.compression.bf16 import BF16
from tfdist.compression.compressor import Compressor
from tfdist.compression.fp16 import FP16
from tfdist.compression.int8 import Int8
from tfdist.compression.none import NoCompression
from tfdist.compression.powersgd import PowerSGD
from tfdist.compression.randomk import RandomK
from tfdist.compression.sign import Sign
from tfdist.compression.topk import TopK
from tfdist.errors import explain, nearest

_registry: dict[str, type[Compressor]] = {}


def register(kind: type[Compressor]) -> type[Compressor]:
    """Makes a compressor of your own available by its `name`.

    Args:
        kind: A frozen dataclass that extends `Compressor`.

    Returns:
        The class, so that this can stand above it as a decorator.

    Raises:
        ValueError: The name is missing, or taken by another class.
    """
    known = _registry.get(kind.name)
    if not kind.name or (known is not None and known is not kind):
        raise ValueError(
            explain(
                "Every compressor needs a name of its own",
                received=f"{kind.__name__} with name {kind.name!r}",
                expected=f"none of {names()}",
                hint="Set the class attribute `name`.",
            )
        )
    _registry[kind.name] = kind
    return kind


def names() -> list[str]:
    """Returns the names of all compressors."""
    return list(_registry)


def get(identifier: str | Compressor, **parameters: Any) -> Compressor:
    """Returns a compressor.

    Args:
        identifier: A name, or a compressor (then without parameters).
        **parameters: Those of the class behind the name.

    Returns:
        The compressor.

    Raises:
        TypeError: `identifier` is neither, or an object came with parameters.
        ValueError: The name or a parameter is unknown, or a value out of range.

    Example:
        >>> tfdist.compression.get("powersgd", rank=2).rank
        2
    """
    if isinstance(identifier, Compressor):
        if parameters:
            raise TypeError(
                explain(
                    "A compressor object already has its parameters",
                    received=f"{identifier} and {parameters}",
                    expected="the object alone, or a name with parameters",
                    hint=f"Pass {identifier.name!r} and the parameters.",
                )
            )
        return identifier
    if not isinstance(identifier, str):
        raise TypeError(
            explain(
                "A compressor is given by its name or as an object",
                received=repr(identifier),
                expected=f"one of {names()}, or an instance",
                hint='Pass "powersgd" or PowerSGD(rank=4), not the class.',
            )
        )
    if identifier not in _registry:
        raise ValueError(
            explain(
                "Unknown compressor",
                received=repr(identifier),
                expected=f"one of {names()}",
                hint=_instead_of(identifier, names()),
            )
        )
    kind = _registry[identifier]
    allowed = list(inspect.signature(kind).parameters)
    for name in parameters:
        if name not in allowed:
            raise ValueError(
                explain(
                    f"Compressor {identifier!r} has no such parameter",
                    received=repr(name),
                    expected=f"any of {allowed}" if allowed else "no parameter",
                    hint=_instead_of(name, allowed),
                )
            )
    return kind(**parameters)


def serialize(compressor: Compressor) -> dict[str, Any]:
    """Returns a compressor as plain data (JSON)."""
    return {"name": compressor.name, "config": compressor.get_config()}


def deserialize(data: dict[str, Any]) -> Compressor:
    """Undoes `serialize`."""
    return get(data["name"], **data["config"])


def _instead_of(name: str, known: list[str]) -> str:
    meant = nearest(name, known)
    if meant is not None:
        return f"Did you mean {meant!r}?"
    return f"Choose from {known}." if known else "Leave it out."


for _kind in (NoCompression, FP16, BF16, PowerSGD, RandomK, TopK, Int8, Sign):
    register(_kind)
