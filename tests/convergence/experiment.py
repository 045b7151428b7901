"""What is compared, and on what: methods, seeds, folds and one setting for all.

Nothing here is chosen for a method: all begin with the same weights, see the same
images in the same order, and take the same learning rates.
"""

import dataclasses
import itertools
import json
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to send gradients."""

    title: str
    compressor: str = ""  # its name; "": plain `fit`, without the callback
    parameters: dict[str, Any] = dataclasses.field(default_factory=dict)
    feedback: bool | str = "auto"
    worse: bool = False  # theory says that it does not reach the accuracy


SEEDS = 10
UNCOMPRESSED = "uncompressed"
WITHOUT = "-without"  # ends the names of methods without error feedback
LOSSY = {
    "powersgd": Method("PowerSGD, rank 2", "powersgd", {"rank": 2}),
    "topk": Method("top-k, 1 %", "topk", {"ratio": 0.01}),
    "randomk": Method("random-k, 5 %", "randomk", {"ratio": 0.05}),
    "int8": Method("int8", "int8"),
    "sign": Method("sign", "sign"),
}
# Rounding to 255 levels errs too little to be seen here; sign refuses to do without.
WORSE = ("powersgd", "topk", "randomk")
METHODS = {
    UNCOMPRESSED: Method("uncompressed"),
    "fp16": Method("fp16", "fp16"),
    "bf16": Method("bf16", "bf16"),
    **LOSSY,
    **{
        name + WITHOUT: dataclasses.replace(method, feedback=False, worse=name in WORSE)
        for name, method in LOSSY.items()
        if name != "sign"
    },
}


class Training(NamedTuple):
    """One of the trainings that a method is judged by."""

    method: str
    seed: int
    fold: int  # the one that it is tested on


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all methods share."""

    folds: int = 5
    units: int = 128  # of each of two hidden layers
    batch: int = 64  # images in a step, over all ranks
    epochs: int = 30
    rate: float = 0.05  # falls to zero along a cosine
    momentum: float = 0.9

    def fingerprint(self) -> int:
        """Return a number that differs where results cannot be compared."""
        return zlib.crc32(json.dumps(dataclasses.asdict(self)).encode())


def trainings(methods: Sequence[str], seeds: int, folds: int) -> list[Training]:
    """Return all trainings, those of one method together."""
    return [
        Training(*each)
        for each in itertools.product(methods, range(seeds), range(folds))
    ]
