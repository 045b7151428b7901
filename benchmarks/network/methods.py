"""The registry of methods: one row for each line of the table."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.network import formulas
from benchmarks.network.formulas import Shape

# How the processes of a job are started.
ALONE, EACH, HOROVOD = "on one host", "on every host", "by horovodrun"
Sent = Callable[[Sequence[Shape], int], float]  # (shapes, ranks) -> bytes of a rank


@dataclass(frozen=True)
class Method:
    """One way to train."""

    name: str
    what: str  # for the report
    program: str  # a module of `programs`
    launcher: str = HOROVOD
    options: Mapping[str, Any] = field(default_factory=dict)  # for the program
    sent: Sent | None = None  # None: the program knows
    quick: bool = True  # part of --quick

    @property
    def peer(self) -> bool:
        """Whether this is not tfdist."""
        return not self.options.get("tfdist")

    @property
    def torch(self) -> bool:
        """Whether it runs in PyTorch's environment."""
        return self.program == "torch_ddp"


def _compressed(
    name: str, quick: bool = True, suffix: str = "", **parameters: Any
) -> Method:
    shown = ", ".join(f"{key} {value}" for key, value in parameters.items())
    return Method(
        f"tfdist-{name}{suffix}",
        f"tfdist, {name} {shown}".strip(),
        "fit",
        options={"tfdist": True, "compressor": name, "parameters": parameters},
        quick=quick,
    )


_float32 = formulas.dense_bytes
_float16 = functools.partial(formulas.dense_bytes, each=2)

# What the others are set against; always measured.
_one_core = {"one_core": True}
ONE_PROCESS = Method("one", "one process, plain Keras", "fit", ALONE, _one_core)
APART = Method("apart", "every host for itself", "fit", EACH, _one_core)
STAGES = Method("stages", "parts of a step, no network", "stages", EACH, _one_core)
COLLECTIVES = Method("collectives", "collectives alone, no training", "collectives")

METHODS = {
    method.name: method
    for method in (
        Method(
            "tfdist", "tfdist, dense", "fit", options={"tfdist": True}, sent=_float32
        ),
        _compressed("fp16"),
        _compressed("bf16", quick=False),
        _compressed("int8"),
        _compressed("powersgd", rank=4),
        _compressed("powersgd", False, "-turns", rank=4, alternate=True),
        _compressed("randomk", ratio=0.01),
        _compressed("topk", ratio=0.01, quick=False),
        _compressed("sign", quick=False),
        Method("horovod", "Horovod, dense", "horovod_loop", sent=_float32),
        Method(
            "horovod-grouped",
            "Horovod, dense, one group",
            "horovod_loop",
            options={"grouped": True},
            sent=_float32,
            quick=False,
        ),
        Method(
            "horovod-fp16",
            "Horovod, fp16",
            "horovod_loop",
            options={"compression": "fp16"},
            sent=_float16,
        ),
        Method(
            "multiworker",
            "TensorFlow's MultiWorkerMirroredStrategy",
            "multiworker_loop",
            EACH,
            sent=_float32,
        ),
        Method("ddp", "PyTorch DDP, dense", "torch_ddp", EACH, sent=_float32),
        Method(
            "ddp-fp16",
            "PyTorch DDP, fp16",
            "torch_ddp",
            EACH,
            {"hook": "fp16"},
            _float16,
        ),
        Method(
            "ddp-powersgd",
            "PyTorch DDP, PowerSGD rank 4",
            "torch_ddp",
            EACH,
            {"hook": "powersgd", "rank": 4},
            functools.partial(formulas.torch_powersgd_bytes, rank=4),
        ),
    )
}
