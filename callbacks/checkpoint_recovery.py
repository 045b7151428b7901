"""Training that goes on, bit for bit, whatever has ended it."""

from __future__ import annotations

import os
import weakref
from functools import partial
from typing import Any, ClassVar

from tfdist import cluster
from tfdist.checkpoint.store import Store
from tfdist.errors import explain
from tfdist.strategies import draws, fits

from .arguments import checked_integer, checked_path, require_own_strategy
from .place import Placed
from .recovered_fit import RecoveredFit
from .recovery_arguments import (
    checked_best,
    checked_every,
    checked_positive,
)
from .recovery_place import Place
from .recovery_schedule import best_interval, schedule_for


class CheckpointRecovery(Placed):
    """Saves all that decides the training, and goes on from there after any end of it.

    Give it in every training that is longer than you would like to repeat. Start the
    script again, on the same or other machines, and `fit` goes on after the last step
    that all ranks have saved; the result equals that of an undisturbed run bit for bit,
    weights, optimizer and history. `tfdist run --max-restarts` starts it again by
    itself.

    Saved are the variables of model and optimizer with random states, what every
    replica remembers on its own (moving statistics, gradients that wait for an update,
    residuals of compression), metrics in the middle of an epoch, what Keras's and
    tfdist's callbacks remember and any other callback with `get_state()`, which returns
    plain data and NumPy arrays, and `set_state(states)`, which gets a list of those of
    all processes, the position in the data, and the random states of Python, NumPy,
    TensorFlow and Keras. Its place in the list of callbacks does not matter.

    Training stands still while the state is copied; it is written in the background.
    A step counts once every rank's file is on the disk and verified; a crash at any
    moment leaves the step before. On other numbers of ranks, and under other
    strategies, training goes on with the same global batches; what replicas remember on
    their own is then shared out so that its sum or mean stays.

    A `fit` that has completed its epochs is not repeated: started again, it returns at
    once with its weights and history, or goes on if `epochs` was raised. Later calls of
    `fit` with the same model and directory are counted, and go on in the same way.
    Another model of the same script, as another fold's, needs a directory of its own.

    Args:
        directory: Where this training's checkpoints are, and no other's: a path that
            all ranks share, or "gs://...", "s3://...".
        every_steps: Batches between two checkpoints.
        every_seconds: Seconds between two checkpoints, to the step. With neither, or
            "auto", the time that loses least (Young, Daly), from what a checkpoint is
            measured to cost; the end of training is saved in any case.
        keep: How many of the newest checkpoints stay.
        keep_every: Those at multiples of so many batches stay, too.
        keep_best: A metric of an epoch's logs, such as "val_loss", or ("val_accuracy",
            "max"): the checkpoint of the end of the best epoch stays. Every epoch's end
            is saved then. A name that no logs have is told, before the first step
            where that can be known.
        time_between_failures: Expected, in seconds, of the whole job.
        overhead: The largest part of the time that may be spent on saving.
        timeout: Seconds to wait for the files of other ranks.

    Raises:
        ValueError: A wrong argument; two of these callbacks; a checkpoint of another
            model or optimizer, before anything is changed; a second model in the same
            script and directory.
        CheckpointError: The directory cannot be written, or belongs to another job.

    References:
        Mohan, Phanishayee, Chidambaram, CheckFreq: frequent, fine-grained DNN
        checkpointing, FAST 2021.

    Example:
        >>> recovery = tfdist.callbacks.CheckpointRecovery("runs/digits")
        >>> model.fit(dataset, epochs=90, callbacks=[recovery])
    """

    excludes: ClassVar = {
        "BackupAndRestore": "CheckpointRecovery alone: the other would put older "
        "weights back"
    }

    def __init__(
        self,
        directory: str | os.PathLike[str],
        every_steps: int | str | None = None,
        every_seconds: float | str | None = None,
        *,
        keep: int = 3,
        keep_every: int | None = None,
        keep_best: str | tuple[str, str] | None = None,
        time_between_failures: float = 4 * 3600.0,
        overhead: float = 0.01,
        timeout: float = 600.0,
    ) -> None:
        super().__init__()
        self.directory = checked_path(
            "directory", directory, hint='CheckpointRecovery("runs/first")'
        )
        self.every_steps, self.every_seconds = checked_every(every_steps, every_seconds)
        self.keep = checked_integer("keep", keep, least=1)
        self.keep_every = keep_every
        if keep_every is not None:
            checked_integer("keep_every", keep_every, least=1)
        self.keep_best = keep_best
        self._best = checked_best(keep_best)
        self.time_between_failures = checked_positive(
            "time_between_failures", time_between_failures
        )
        self.overhead = checked_positive("overhead", overhead)
        self.timeout = checked_positive("timeout", timeout)
        self._trained: Any = None  # a weak reference to the model
        self._fit: RecoveredFit
        self._logs: Any = None  # of the last epoch
        fits.install()
        fits.wrap("fit", draws.noted)

    @property
    def resumed_step(self) -> int | None:
        """The step from which the last `fit` went on; None if it started anew."""
        return self._fit.resumed_step if hasattr(self, "_fit") else None

    def before_train_begin(self, logs: Any = None) -> None:
        """Finds the newest checkpoint, with all ranks, and reads it."""
        super().before_train_begin(logs)
        strategy = self.model.distribute_strategy
        if strategy.num_replicas_in_sync > 1 or cluster.size() > 1:
            require_own_strategy("CheckpointRecovery", strategy)
        self._refuse_another_model()
        store = Store(
            self.directory,
            rank=cluster.rank(),
            size=cluster.size(),
            keep=self.keep,
            keep_every=self.keep_every,
            keep_best=self._best,
            timeout=self.timeout,
        )
        place, earlier = _made(self.model).get(store.path, (Place(), []))
        self._fit = RecoveredFit(
            self.model,
            self.whole_list,
            store,
            place,
            earlier,
            best=self._best,
            others=_LAST.get(store.path, weakref.ref(self.model))() is not self.model,
        )
        self._fit.open({name: str(value) for name, value in self.get_config().items()})

    def after_train_begin(self, logs: Any = None) -> None:
        """Puts the state of the checkpoint in the place of the present one."""
        best = partial(
            best_interval,
            time_between_failures=self.time_between_failures,
            overhead=self.overhead,
        )
        self._fit.begin(
            self.params["epochs"],
            self.params["steps"],
            partial(schedule_for, self.every_steps, self.every_seconds, best),
        )

    def after_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Lets a resumed epoch go on exactly."""
        self._fit.begin_epoch(epoch)
        self._fit.draws.watch()

    def before_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Lets a resumed epoch go on exactly."""
        self._fit.draws.look()
        self._fit.begin_batch()

    def after_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Notes that no callback draws from here on."""
        self._fit.draws.watch()

    def before_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Notes that callbacks may draw from here on."""
        self._fit.draws.look()

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        """Does nothing; that it is there makes Keras call all hooks in this thread."""

    def before_test_begin(self, logs: Any = None) -> None:
        """Notes the metrics before validation begins with new ones."""
        if fits.running(self.model) is not None:
            self._fit.begin_test()

    def after_test_batch_end(self, batch: int, logs: Any = None) -> None:
        """Saves and ends the process where the machine is taken away."""
        if fits.running(self.model) is not None:
            self._fit.end_test_batch()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Does nothing; that it is there makes Keras call all hooks in this thread."""

    def after_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Saves if it is time."""
        self._fit.end_batch(logs)
        self._fit.draws.watch()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Notes the logs, to which callbacks later in the list may add."""
        self._logs = logs

    def after_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Saves if it is time, and after the last epoch."""
        self._fit.end_epoch(epoch, self._logs)

    def after_train_end(self, logs: Any = None) -> None:
        """Waits until the last checkpoint is written, on all ranks."""
        _made(self.model)[self._fit.directory] = self._fit.finish()
        _LAST[self._fit.directory] = weakref.ref(self.model)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments as plain data."""
        return {
            "directory": self.directory,
            "every_steps": self.every_steps,
            "every_seconds": self.every_seconds,
            "keep": self.keep,
            "keep_every": self.keep_every,
            "keep_best": self.keep_best,
            "time_between_failures": self.time_between_failures,
            "overhead": self.overhead,
            "timeout": self.timeout,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> CheckpointRecovery:
        """Undoes `get_config`."""
        return cls(**config)

    def _refuse_another_model(self) -> None:
        if self._trained is not None and self._trained() is not self.model:
            raise ValueError(
                explain(
                    "One directory keeps the training of one model",
                    received=f"model {self.model.name!r} after another one",
                    expected="a CheckpointRecovery for each",
                    hint="CheckpointRecovery(another directory) for the second one.",
                )
            )
        self._trained = weakref.ref(self.model)


# Model -> directory -> where its training is, and the histories of the fits before.
_Made = dict[str, tuple[Place, list[dict[str, Any]]]]
_MADE: weakref.WeakKeyDictionary[Any, _Made] = weakref.WeakKeyDictionary()
# Directory -> the model whose `fit` has returned there last, in this process.
_LAST: dict[str, weakref.ref[Any]] = {}


def _made(model: Any) -> _Made:
    """Returns what a model has been trained in this process, by whichever callbacks."""
    return _MADE.setdefault(model, {})
