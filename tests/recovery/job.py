"""A training job without TensorFlow: a state, steps that change it, and checkpoints.

Deterministic, so that the state after each step is known: its hash is golden. Every
process has a part of its own, as a compressor's residuals are.
"""

import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import ml_dtypes
import numpy as np

from tfdist.checkpoint.directory import Checkpoint
from tfdist.checkpoint.filesystem import FileSystem
from tfdist.checkpoint.parts import Part
from tfdist.checkpoint.store import Store

Arrays = dict[str, np.ndarray]

STEPS = 4
KEEP = 2


@dataclass
class State:
    """What decides the future."""

    common: Arrays
    own: Arrays
    step: int = 0

    def advance(self) -> None:
        """Makes one step, in which each number depends on all that was."""
        self.step += 1
        weights, count = self.common["dense/kernel"], self.common["iterations"]
        residual = self.own["residual"]
        self.common["dense/kernel"] = np.float32(0.9) * np.roll(weights, 1) + self.step
        self.common["iterations"] = count + 1
        self.own["residual"] = residual * np.float32(0.5) + weights[:8]
        self.own["mask"] = residual > self.step
        self.own["half"] = residual.astype(ml_dtypes.bfloat16)

    def digest(self) -> str:
        """The hash of all of it."""
        found = hashlib.sha256(str(self.step).encode())
        for arrays in (self.common, self.own):
            for name in sorted(arrays):
                array = np.ascontiguousarray(arrays[name])
                found.update(f"{name} {array.dtype} {array.shape}".encode())
                found.update(array.tobytes())
        return found.hexdigest()


def fresh(rank: int = 0) -> State:
    """The state before the first step."""
    return State(
        common={
            "dense/kernel": np.linspace(-1.0, 1.0, 32, dtype=np.float32),
            "iterations": np.array(0, np.int64),
        },
        own={
            "residual": np.full(8, rank + 1, np.float32),
            "mask": np.zeros(8, np.bool_),
            "half": np.zeros(8, ml_dtypes.bfloat16),
        },
    )


def golden(rank: int = 0, steps: int = STEPS) -> list[str]:
    """The hashes after 0, 1, ... steps of a job that nothing happens to."""
    state, found = fresh(rank), []
    for _ in range(steps + 1):
        found.append(state.digest())
        state.advance()
    return found


def restored(checkpoint: Checkpoint, rank: int) -> State:
    """The state in a checkpoint."""
    own = checkpoint.ranks[rank]
    return State(dict(checkpoint.common), dict(own), checkpoint.manifest.step)


def parts_of(state: State, common: Arrays) -> list[Part]:
    """What is saved after a step: twice in the middle, as at the end of an epoch."""
    part = Part(own=state.own, common=common)
    return [part, replace(part, replaces=True)] if state.step == 2 else [part]


@dataclass
class Report:
    """What a run of the job has found and done."""

    loaded: int | None = None  # the step that it began with
    loaded_digest: str = ""
    rejected: dict[int, str] = field(default_factory=dict)
    digest: str = ""  # at the end


def alone(value: Any) -> list[Any]:
    """How a job of one process agrees."""
    return [value]


def run(
    directory: str,
    files: FileSystem | None = None,
    *,
    rank: int = 0,
    agree: Callable[[Any], list[Any]] = alone,
    steps: int = STEPS,
    keep: int = KEEP,
    note: Callable[[str, int], None] = lambda event, step: None,
) -> Report:
    """Begins or goes on, and saves after each step.

    `agree` returns what all ranks pass to it; `note` is told which step is "loaded",
    and "begun" before and "saved" after each save.
    """
    size = len(agree(rank))
    # No beat falls into the run: operations are counted.
    store = Store(
        directory, rank=rank, size=size, keep=keep, filesystem=files, heartbeat=3600.0
    )
    with contextlib.closing(store):
        session = agree(store.open() if rank == 0 else 0)[0]
        if rank > 0:
            store.open(session)
        good = store.good_steps()
        report = Report(rejected=dict(good.rejected))
        state = fresh(rank)
        common = set.intersection(*map(set, agree(list(good.steps))))
        if common:
            state = restored(store.load(max(common)), rank)
            report.loaded, report.loaded_digest = state.step, state.digest()
            note("loaded", state.step)
        while state.step < steps:
            state.advance()
            note("begun", state.step)
            shared = state.common if rank == 0 else {}
            for part in parts_of(state, shared):
                store.save(state.step, part)
            note("saved", state.step)
        agree(None)  # the chief needs the others' last parts
    report.digest = state.digest()
    return report
