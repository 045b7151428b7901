"""Numbers with units, as users write and read them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import TypeVar

from tfdist.launch.errors import CommandError

T = TypeVar("T")

_COUNTS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12}
_COUNTS |= {unit.lower(): factor for unit, factor in _COUNTS.items()}
_DURATIONS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0}
_PREFIXES = {"K": 1e3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_BANDWIDTHS = {
    f"{prefix}{unit}": factor * bits
    for prefix, factor in _PREFIXES.items()
    for unit, bits in (("bit", 1.0), ("bit/s", 1.0), ("bps", 1.0), ("B/s", 8.0))
}
_NUMBER = re.compile(r"([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*(.*)")


def parse_count(text: str, option: str) -> float:
    """Returns a positive number such as "25M", "1.5B" (1e9) or "800000".

    Raises:
        CommandError: If it is not one.
    """
    return _parse(text, option, _COUNTS, "25M")


def parse_duration(text: str, option: str) -> float:
    """Returns seconds of a duration such as "50us" or "1.5ms".

    Raises:
        CommandError: If it is not a positive number with a unit of time.
    """
    return _parse(text, option, _DURATIONS, "50us")


def parse_bandwidth(text: str, option: str) -> float:
    """Returns bits per second of a bandwidth such as "10Gbit" or "1.2GB/s".

    Raises:
        CommandError: If it is not a positive number with a unit of bandwidth.
    """
    return _parse(text, option, _BANDWIDTHS, "10Gbit or 1.25GB/s")


def parse_list(text: str, option: str, parse: Callable[[str, str], T]) -> list[T]:
    """Returns the parts of a comma-separated list, each read by `parse`.

    Example:
        >>> parse_list("2,8", "--np", parse_ranks)
        [2, 8]
    """
    return [parse(part.strip(), option) for part in text.split(",")]


def _parse(text: str, option: str, units: Mapping[str, float], example: str) -> float:
    match = _NUMBER.fullmatch(text.strip())
    if match is None or match[2] not in units:
        raise CommandError(
            f"{option}: cannot read {text!r}; expected a number and one of the units "
            f"{', '.join(unit for unit in units if unit)}.",
            hint=f"{option} {example}",
        )
    value = float(match[1]) * units[match[2]]
    if not 0.0 < value < math.inf:
        raise CommandError(
            f"{option}: expected more than 0, received {text!r}.",
            hint=f"{option} {example}",
        )
    return value


def show_bytes(size: float) -> str:
    """Returns a size in the unit that keeps it short.

    Example:
        >>> show_bytes(100e6)
        '100 MB'
    """
    return _show(size, (("B", 1.0), ("kB", 1e3), ("MB", 1e6), ("GB", 1e9)))


def show_seconds(seconds: float) -> str:
    """Returns a duration in the unit that keeps it short.

    Example:
        >>> show_seconds(0.0123)
        '12.3 ms'
    """
    return _show(seconds, (("us", 1e-6), ("ms", 1e-3), ("s", 1.0)))


def show_bandwidth(bits: float) -> str:
    """Returns bits per second in the unit that keeps them short."""
    return _show(
        bits, (("bit/s", 1.0), ("kbit/s", 1e3), ("Mbit/s", 1e6), ("Gbit/s", 1e9))
    )


def _show(value: float, units: tuple[tuple[str, float], ...]) -> str:
    unit, factor = next(
        ((name, size) for name, size in reversed(units) if value >= 0.9995 * size),
        units[0],
    )
    scaled = value / factor
    return f"{scaled:.3g} {unit}" if scaled < 1000 else f"{scaled:.0f} {unit}"
