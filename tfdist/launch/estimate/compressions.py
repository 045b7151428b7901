"""What each way to compress gradients puts on the wire; one row a way.

The compressors of `tfdist.compression` have these formulas, too, but for a model's
shapes and not without importing TensorFlow, which takes seconds; a test holds this
table equal to them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tfdist.errors import nearest
from tfdist.launch.errors import CommandError
from tfdist.launch.estimate.cost import (
    Link,
    all_gather_seconds,
    all_reduce_seconds,
    exchange_seconds,
)

BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
INDEX_BYTES = 4  # int32
FLOAT_BYTES = 4  # what is not half precision is sent as float32
# What PowerSGD saves depends on the shapes: an n x m matrix becomes r (n + m)
# numbers. Without the model at hand, all parameters count as square matrices.
MATRIX_SIDE = 1024
INT8_BLOCK = 256  # numbers to one scale

Seconds = Callable[[float, int, Link], float]  # (bytes, ranks, link) -> seconds


@dataclass(frozen=True)
class Gradients:
    """What is to be sent once per step."""

    parameters: float  # how many numbers
    dtype: str = "float32"  # a key of BYTES

    @property
    def size(self) -> float:
        """Bytes of the uncompressed gradients."""
        return self.parameters * BYTES[self.dtype]


@dataclass(frozen=True)
class Way:
    """One row of the table: the bytes of one rank, and the collective they take."""

    name: str
    wire: Callable[[Gradients, float], float]  # (gradients, setting) -> bytes
    collective: Seconds
    rounds: int = 1  # collectives one after the other, which share the bytes
    setting: float = 0.0  # the default of what stands behind the colon
    limits: tuple[float, float] = (0.0, 0.0)  # of the setting; (0, 0): has none
    lossy: bool = True  # changes the training, so it has to beat half precision


def _powersgd(gradients: Gradients, rank: float) -> float:
    per_matrix = min(2 * rank / MATRIX_SIDE, 1.0)
    return gradients.parameters * per_matrix * FLOAT_BYTES


WAYS = {
    way.name: way
    for way in (
        Way("none", lambda g, _: g.size, all_reduce_seconds, lossy=False),
        # First: with the range of float32 nothing saturates, as it can in fp16. No
        # network adds it: see tfdist.compression.BF16.
        Way("bf16", lambda g, _: 2 * g.parameters, exchange_seconds, lossy=False),
        Way("fp16", lambda g, _: 2 * g.parameters, all_reduce_seconds, lossy=False),
        # Vogels, Karimireddy, Jaggi, PowerSGD, 2019: the sum of P, then that of Q.
        Way(
            "powersgd",
            _powersgd,
            all_reduce_seconds,
            rounds=2,
            setting=4,
            limits=(1, 512),
        ),
        # One seed on all ranks: the same positions everywhere, so only values travel.
        Way(
            "randomk",
            lambda g, kept: kept * g.parameters * FLOAT_BYTES,
            all_reduce_seconds,
            setting=0.05,
            limits=(1e-9, 1),
        ),
        # Every rank keeps other positions, so these travel too, and nothing adds up.
        Way(
            "topk",
            lambda g, kept: kept * g.parameters * (FLOAT_BYTES + INDEX_BYTES),
            all_gather_seconds,
            setting=0.01,
            limits=(1e-9, 1),
        ),
        Way(
            "int8",
            lambda g, _: g.parameters * (1 + FLOAT_BYTES / INT8_BLOCK),
            exchange_seconds,
        ),
        # One bit a number; those that mark zero rows, and the scale, are left out.
        Way("sign", lambda g, _: g.parameters / 8, all_gather_seconds),
    )
}


@dataclass(frozen=True)
class Compression:
    """A way with its setting: "topk:0.01"."""

    way: Way
    setting: float

    @property
    def label(self) -> str:
        """What the user writes."""
        has_setting = self.way.limits != (0.0, 0.0)
        return f"{self.way.name}:{self.setting:g}" if has_setting else self.way.name

    def wire_bytes(self, gradients: Gradients) -> float:
        """Returns the bytes that one rank contributes to a step."""
        return self.way.wire(gradients, self.setting)

    def seconds(self, gradients: Gradients, ranks: int, link: Link) -> float:
        """Returns the communication time of one step, compressing not included."""
        part = self.wire_bytes(gradients) / self.way.rounds
        return self.way.rounds * self.way.collective(part, ranks, link)


def parse_compression(text: str, option: str = "--compression") -> Compression:
    """Reads "bf16", "powersgd:4" (its rank) or "topk:0.01" (the fraction kept).

    Raises:
        CommandError: If there is no such way, or its setting is out of range.
    """
    name, colon, setting = text.partition(":")
    if name not in WAYS:
        raise CommandError(
            f"{option}: there is no compression {name!r}; known: {', '.join(WAYS)}.",
            hint=f"{option} {nearest(name, WAYS) or 'bf16'}",
        )
    way = WAYS[name]
    if not colon:
        return Compression(way, way.setting)
    low, high = way.limits
    try:
        value = float(setting)
    except ValueError:
        value = float("nan")
    if way.limits == (0.0, 0.0) or not low <= value <= high:
        expected = f"a number from {low:g} to {high:g}" if high else "no setting"
        raise CommandError(
            f"{option}: {name} takes {expected}, received {setting!r}.",
            hint=f"{option} {Compression(way, way.setting).label}",
        )
    return Compression(way, value)


NONE = Compression(WAYS["none"], 0.0)
DEFAULT = tuple(
    Compression(way, way.setting) for way in WAYS.values() if way.name != "none"
)
