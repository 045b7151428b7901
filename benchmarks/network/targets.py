"""What tfdist wants to reach with the MLP on two hosts at 1 Gbit/s, and if it does."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.network import formulas, verdicts
from benchmarks.network.results import Results, Row

MODEL, RATE, SLOW = "mlp", "1Gbit", "100Mbit"


@dataclass(frozen=True)
class Target:
    """One target: a row's step has to take no longer than a limit."""

    what: str
    row: Row | None
    limit: float | None  # seconds; None: not measured

    @property
    def met(self) -> bool | None:
        """Whether it is met; None says that it was not measured."""
        if self.row is None or self.limit is None:
            return None
        return self.row.step <= self.limit


def targets(results: Results) -> list[Target]:
    """Returns all targets that are compared by time, in the order of the report."""

    def row(method: str) -> Row | None:
        return results.find(MODEL, method, RATE)

    def step(*methods: str) -> float | None:
        return _fastest(results, *methods)

    dense = row("tfdist")
    found = [
        Target("dense: no slower than PyTorch DDP in float32", dense, step("ddp")),
        Target(
            "dense: at most 1.05 x (forward pass + bytes at TCP's rate)",
            dense,
            _times(1.05, _overlapped(results)),
        ),
        Target("fp16: faster than DDP's fp16", row("tfdist-fp16"), step("ddp-fp16")),
        Target("int8: faster than DDP's fp16", row("tfdist-int8"), step("ddp-fp16")),
        *_of_powersgd("PowerSGD", row("tfdist-powersgd"), results),
        *_of_powersgd("PowerSGD in turns", row("tfdist-powersgd-turns"), results),
        Target(
            "random-k: no slower than PowerSGD",
            row("tfdist-randomk"),
            step("tfdist-powersgd"),
        ),
    ]
    slow = results.find(MODEL, "tfdist", SLOW)
    for each in verdicts.compressed(results, MODEL, SLOW) if slow else ():
        found.append(
            Target(f"{each.method}: no slower than dense at {SLOW}", each, slow.step)
        )
    return found


def _of_powersgd(name: str, row: Row | None, results: Results) -> list[Target]:
    """Returns what both kinds have to reach; nothing for one that was not measured."""
    limits = {
        "at most 1.5 x the step of one process": _times(
            1.5, results.one_process(MODEL)
        ),
        "5 x faster than Horovod's dense step": _times(
            1 / 5, _fastest(results, "horovod")
        ),
        "3 x faster than DDP's best of float32 and fp16": _times(
            1 / 3, _fastest(results, "ddp", "ddp-fp16")
        ),
        "no slower than DDP's PowerSGD": _fastest(results, "ddp-powersgd"),
    }
    if row is None:
        return []
    return [Target(f"{name}: {what}", row, limit) for what, limit in limits.items()]


def _fastest(results: Results, *methods: str) -> float | None:
    """Returns the shortest step of several methods; None unless all were measured."""
    rows = [results.find(MODEL, method, RATE) for method in methods]
    steps = [each.step for each in rows if each is not None]
    return min(steps) if len(steps) == len(rows) else None


def _times(factor: float, seconds: float | None) -> float | None:
    return None if seconds is None else factor * seconds


def _overlapped(results: Results) -> float | None:
    """Returns the least time if all bytes left while the backward pass still ran."""
    forward = results.stages.get(MODEL, {}).get("forward")
    dense = results.find(MODEL, "tfdist", RATE)
    if forward is None or dense is None:
        return None
    return forward + formulas.wire_seconds(dense.formula, results.raw[RATE])
