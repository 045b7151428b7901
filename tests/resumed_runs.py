"""Runs that are broken off and go on: what the tests of recovery share."""

import contextlib
import fnmatch
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest import mock

import keras
import numpy as np

from tests.parallel.registry import Results
from tests.parallel.setting import Setting
from tests.parallel.training import (
    compile_under,
    outcome,
    perceptron,
    regression,
    sgd,
)

Callbacks = Callable[[], list[keras.callbacks.Callback]]
NOT_REPEATED = {"compression_ms"}  # of an epoch's logs: times


class BrokenOffError(RuntimeError):
    """Ends a run on all ranks at the same step."""


def start_anew() -> None:
    """Forget which models were trained where, as a new process has."""
    from tfdist.callbacks import checkpoint_recovery

    checkpoint_recovery._LAST.clear()


class BreakOff(keras.callbacks.Callback):
    """Breaks a run off after a number of batches, when a checkpoint is there."""

    def __init__(self, after: int, step: int | None, directory: Path) -> None:
        super().__init__()
        self.after = after
        self.manifest = directory / f"step-{step:08d}" / "MANIFEST.json"
        self.made = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.made += 1
        if self.made == self.after:
            limit = time.monotonic() + 60.0
            while not self.manifest.exists():
                assert time.monotonic() < limit, f"no {self.manifest}"
                time.sleep(0.01)
            raise BrokenOffError


@contextlib.contextmanager
def forgetting(*patterns: str) -> Iterator[None]:
    """Leaves variables out of what is put back: the control of a test."""
    from tfdist.checkpoint.snapshot import Snapshot

    assign = Snapshot.assign

    def kept(arrays: Any) -> dict[str, Any]:
        return {
            name: array
            for name, array in arrays.items()
            if not any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
        }

    def partly(self: Any, common: Any, own: Any, **options: Any) -> None:
        assign(self, kept(common), kept(own), **options)

    with mock.patch.object(Snapshot, "assign", partly):
        yield


@contextlib.contextmanager
def forgetting_residuals() -> Iterator[None]:
    """Leaves out what compression has not sent yet."""
    from tfdist.callbacks import GradientCompression

    set_state = GradientCompression.set_state

    def without(callback: Any, states: Any) -> None:
        for state in states:
            for name in state["arrays"]:
                if name.startswith("residual/"):
                    state["arrays"][name][...] = 0
        set_state(callback, states)

    with mock.patch.object(GradientCompression, "set_state", without):
        yield


@contextlib.contextmanager
def forgetting_the_batch() -> Iterator[None]:
    """Begins the epoch again."""
    from tfdist.strategies.course import Course

    resume = Course.resume

    def from_batch_0(course: Any, state: Any, logs: Any = None) -> None:
        position = {**state["position"], "batch": 0}
        resume(course, {**state, "position": position}, logs)

    with mock.patch.object(Course, "resume", from_batch_0):
        yield


class Run:
    """One training, which can be made whole, or in parts with a new model each.

    Args:
        setting: Where it runs.
        callbacks: Returns new callbacks for a `fit`.
        build: Returns a new model.
        optimizer: Returns a new optimizer.
        data: The arguments `x` and `y`, or what returns a dataset.
        compiled: For `compile`, besides optimizer and loss.
        fit: For `fit`.
    """

    def __init__(
        self,
        setting: Setting,
        callbacks: Callbacks = list,
        *,
        build: Callable[[], keras.Model] = perceptron,
        optimizer: Callable[[], keras.optimizers.Optimizer] = sgd,
        data: Any = None,
        loss: Any = "mse",
        compiled: dict[str, Any] | None = None,
        **fit: Any,
    ) -> None:
        self.setting = setting
        self.directory = setting.directory / "checkpoints"
        self._kept = setting.directory / "kept"
        self._make = (build, optimizer, loss, compiled or {})
        self._callbacks = callbacks
        self._data = regression(57) if data is None else data
        self._fit = {"epochs": 3, "verbose": 0} | fit
        self.resumed_step: int | None = None

    def model(self) -> keras.Model:
        """Return a new model, as a script does that is started again."""
        start_anew()
        keras.utils.set_random_seed(5)
        build, optimizer, loss, compiled = self._make
        return compile_under(self.setting, build, optimizer, loss, **compiled)

    def fit(self, model: keras.Model, *others: Any, **changes: Any) -> Any:
        data = self._data() if callable(self._data) else self._data
        if isinstance(data, tuple):
            options = {"batch_size": 16, "shuffle": False}
        else:
            data, options = (data,), {}
        options |= self._fit | changes
        return model.fit(*data, callbacks=[*self._callbacks(), *others], **options)

    def whole(self) -> tuple[keras.Model, Any]:
        """Train without a break."""
        model = self.model()
        return model, self.fit(model)

    def recovery(self, every_steps: int = 3, **options: Any) -> Any:
        import tfdist

        return tfdist.callbacks.CheckpointRecovery(
            self.directory, every_steps, timeout=30.0, **options
        )

    def broken_off(self, after: int, step: int, every: int = 3) -> None:
        """Train until a number of executions was made and a step is saved."""
        if self.setting.rank == 0:
            shutil.rmtree(self.directory, ignore_errors=True)
        self.setting.barrier()
        model = self.model()
        breaking = BreakOff(after, step, self.directory)
        with contextlib.suppress(BrokenOffError):
            self.fit(model, self.recovery(every), breaking)
            raise AssertionError("it was not broken off")

    def resumed(self, *others: Any, **changes: Any) -> tuple[keras.Model, Any]:
        """Train to the end, from what is saved, with a new model."""
        model = self.model()
        recovery = self.recovery()
        history = self.fit(model, recovery, *others, **changes)
        self.resumed_step = recovery.resumed_step
        return model, history

    def differences(
        self, one: tuple[keras.Model, Any], other: tuple[keras.Model, Any]
    ) -> list[str]:
        """Return in what two trained models and their histories differ, bit for bit."""
        found = []
        pairs = zip(state_of(*one), state_of(*other), strict=True)
        for (name, value), (_, again) in pairs:  # names count what was built before
            if value.tobytes() != again.tobytes():
                found.append(f"{name}: {value} / {again}")
        return found

    def check(self, after: int = 7, step: int = 6, every: int = 3) -> Results:
        """Assert that a run which goes on equals the whole one; return what it gave."""
        self._whole = self.whole()
        self.broken_off(after, step, every)
        self._step = step
        self._copy(self.directory, self._kept)
        resumed = self.resumed()
        assert self.resumed_step == step
        differences = self.differences(self._whole, resumed)
        assert not differences, "\n".join(differences)[:1000]
        return outcome(self.setting, resumed[0])

    def check_control(self, forgetting: AbstractContextManager[None]) -> None:
        """Assert, after `check`, that a run which forgets something ends elsewhere."""
        self._copy(self._kept, self.directory)
        with forgetting:
            resumed = self.resumed()
        assert self.resumed_step == self._step
        assert self.differences(self._whole, resumed)

    def _copy(self, source: Path, target: Path) -> None:
        self.setting.barrier()
        if self.setting.rank == 0:
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target)
        self.setting.barrier()


def state_of(model: keras.Model, history: Any) -> Sequence[tuple[str, np.ndarray]]:
    """Return all values of all replicas of this process, and the history, in order."""
    pairs = [
        (variable.name, np.asarray(copy))
        for variable in [*model.variables, *model.optimizer.variables]
        for copy in model.distribute_strategy.experimental_local_results(variable.value)
    ]
    pairs.append(("epochs", np.asarray(history.epoch)))
    for name in sorted(history.history.keys() - NOT_REPEATED):
        pairs.append((name, np.asarray(history.history[name])))
    return pairs
