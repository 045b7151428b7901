"""Training that goes on, bit for bit, whatever has ended it."""

from __future__ import annotations

import dataclasses
import logging
import os
import time
import weakref
from typing import Any, ClassVar

import keras

from tfdist import cluster
from tfdist.checkpoint.snapshot import Snapshot
from tfdist.checkpoint.store import Store
from tfdist.checkpoint.writer import Writer
from tfdist.errors import explain
from tfdist.gradients.attach import path_of
from tfdist.strategies import entry, fits
from tfdist.strategies.steps import replaced

from .arguments import checked_integer, require_own_strategy
from .place import Placed
from .recovery_arguments import (
    checked_best,
    checked_directory,
    checked_every,
    checked_positive,
)
from .recovery_place import Place
from .recovery_ranks import Ranks, newest_common, open_together
from .recovery_resume import Resumption, part_of
from .recovery_schedule import EverySeconds, EverySteps, Schedule, best_interval

_logger = logging.getLogger("tfdist")
_BYTES_PER_SECOND = 1e9  # guessed for the first checkpoint, which tells better


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
    tfdist's callbacks remember and any other callback with `get_state` and `set_state`,
    the position in the data, and the random states of Python, NumPy, TensorFlow and
    Keras. Its place in the list of callbacks does not matter.

    Training stands still while the state is copied; it is written in the background.
    A step counts once every rank's file is on the disk and verified; a crash at any
    moment leaves the step before. On other numbers of ranks, and under other
    strategies, training goes on with the same global batches; what replicas remember on
    their own is then shared out so that its sum or mean stays.

    A `fit` that has completed its epochs is not repeated: started again, it returns at
    once with its weights and history, or goes on if `epochs` was raised. Later calls of
    `fit` with the same model and callback are counted, and go on in the same way.

    Args:
        directory: Where this training's checkpoints are, and no other's: a path that
            all ranks share, or "gs://...", "s3://...".
        every_steps: Batches between two checkpoints.
        every_seconds: Seconds between two checkpoints, to the step. With neither, the
            time that loses least (Young, Daly), from what a checkpoint is measured to
            cost; the end of training is saved in any case.
        keep: How many of the newest checkpoints stay.
        keep_every: Those at multiples of so many batches stay, too.
        keep_best: A metric of an epoch's logs whose best checkpoint stays, such as
            "val_loss"; or ("val_accuracy", "max").
        time_between_failures: Expected, in seconds, of the whole job.
        overhead: The largest part of the time that may be spent on saving.
        timeout: Seconds to wait for the files of other ranks.

    Raises:
        ValueError: A wrong argument; two of these callbacks; a checkpoint of another
            model or optimizer, before anything is changed.
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
        every_steps: int | None = None,
        every_seconds: float | None = None,
        *,
        keep: int = 3,
        keep_every: int | None = None,
        keep_best: str | tuple[str, str] | None = None,
        time_between_failures: float = 4 * 3600.0,
        overhead: float = 0.01,
        timeout: float = 600.0,
    ) -> None:
        super().__init__()
        self.directory = checked_directory(directory)
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
        self._place = Place()
        self._earlier: list[dict[str, Any]] = []  # histories of the completed fits
        self._trained: Any = None
        self._base = 0  # steps made before this epoch
        self._saved: int | None = None  # the newest step that was handed to the writer
        self._is_due = False  # at the end of this epoch
        self._broken_off = False  # within this epoch, by another callback
        self._resumption: Resumption | None = None
        fits.install()

    def before_train_begin(self, logs: Any = None) -> None:
        """Finds the newest checkpoint, with all ranks, and reads it."""
        super().before_train_begin(logs)
        strategy = self.model.distribute_strategy
        if strategy.num_replicas_in_sync > 1 or cluster.size() > 1:
            require_own_strategy("CheckpointRecovery", strategy)
        self._refuse_another_model()
        self._ranks = Ranks(strategy)
        self._ranks.agree("checkpoint recovery", self._details())
        fit = fits.running(self.model)
        if fit is None:
            raise ValueError(
                explain(
                    "CheckpointRecovery works in `fit`",
                    received="a loop that calls callbacks itself",
                    expected="model.fit(..., callbacks=[CheckpointRecovery(...)])",
                    hint="In a loop of your own use tf.train.CheckpointManager.",
                )
            )
        entry.build_from_shapes(self.model, fit.loops[0])
        self._store = Store(
            self.directory,
            rank=cluster.rank(),
            size=cluster.size(),
            keep=self.keep,
            keep_every=self.keep_every,
            keep_best=self._best,
            timeout=self.timeout,
        )
        open_together(self._ranks, self._store)
        fit.ending.callback(self._store.close)
        self._writer = Writer(self._store)
        fit.ending.callback(self._abandon)
        self._saved, self._broken_off = None, False
        self._resumption = self._found()
        if self._resumption is not None:
            self._resumption.before_train_begin()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Does nothing; that it is there makes Keras call all hooks in this thread."""

    def after_train_begin(self, logs: Any = None) -> None:
        """Puts the state of the checkpoint in the place of the present one."""
        strategy, optimizer = self.model.distribute_strategy, self.model.optimizer
        with strategy.scope():
            if optimizer is not None and not optimizer.built:
                optimizer.build(self.model.trainable_variables)
        if cluster.size() > 1:
            strategy.start_from_first(self.model)  # later it would undo what follows
        path = path_of(optimizer)
        self._snapshot = Snapshot(
            self.model,
            optimizer,
            apart=path is not None and path.method.outer is not None,
        )
        epochs = self.params["epochs"]
        self._place = dataclasses.replace(
            self._place, epoch=0, batch=0, epochs=epochs, stopped=False
        )
        if self._resumption is not None:
            skips = self._resumption.place.fit > self._place.fit
            (self._skip if skips else self._resume)(self._resumption, epochs)
        self._base = self._place.step - self._place.batch
        self._schedule = self._new_schedule()
        self._schedule.begin(self._place.step, time.monotonic())

    def after_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Notes the epoch."""
        self._is_due = self._broken_off = False
        pending = self._pending
        if pending is not None:
            pending.after_epoch_begin(self._snapshot)
        else:
            self._place = dataclasses.replace(self._place, epoch=epoch, batch=0)

    def before_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Lets a resumed epoch go on exactly."""
        pending = self._pending
        if pending is not None:
            pending.before_first_batch(self._snapshot)

    def after_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Saves if it is time."""
        self._writer.check()
        done = batch + 1
        self._place = dataclasses.replace(
            self._place, step=self._base + done, batch=done
        )
        self._is_due |= self._schedule.is_due(self._place.step, time.monotonic())
        steps = self.params["steps"]
        if steps is not None and done >= steps:
            return  # the end of the epoch is a simpler place
        self._broken_off = self.model.stop_training
        if self._is_due or self._broken_off:
            self._save()

    def after_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Saves if it is time, and after the last epoch."""
        if self._resumption is not None:  # perhaps no batch was left of it
            self._resumption.is_pending = False
        self._base = self._place.step
        if self._broken_off:
            return  # resumed where it was broken off, not after an epoch cut short
        self._place = dataclasses.replace(
            self._place, epoch=epoch + 1, batch=0, stopped=self._was_stopped_early()
        )
        last = epoch + 1 >= self.params["epochs"] or self.model.stop_training
        if self._is_due or last:
            self._save()

    def after_train_end(self, logs: Any = None) -> None:
        """Waits until the last checkpoint is written, on all ranks."""
        self._ranks.together("Saving a checkpoint", self._writer.close)
        if self._place.is_complete(self.params["epochs"]):
            history = self.model.history
            self._earlier.append({"epoch": history.epoch, "history": history.history})
            self._place = dataclasses.replace(self._place, fit=self._place.fit + 1)

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

    def _found(self) -> Resumption | None:
        """Returns what to go on from; says why a newer checkpoint is not used."""
        checkpoint, passed_over = newest_common(self._ranks, self._store)
        reasons = [f"step {step}: {why}" for step, why in sorted(passed_over.items())]
        if reasons and cluster.is_chief():
            _logger.warning(
                "CheckpointRecovery passes over checkpoints of %s: %s.",
                self.directory,
                "; ".join(reasons),
            )
        if checkpoint is None:
            return None
        resumption = Resumption(self.model, self.whole_list, checkpoint)
        return resumption if resumption.place.fit >= self._place.fit else None

    def _resume(self, resumption: Resumption, epochs: int) -> None:
        """Puts a checkpoint in the place of the present state."""
        self._ranks.together(
            "Checking a checkpoint", lambda: resumption.check(self._snapshot)
        )
        resumption.after_train_begin(self._snapshot)
        self._earlier, place = resumption.earlier, resumption.place
        complete = place.is_complete(epochs)
        self._go_to(max(place.epoch, epochs) if complete else place.epoch, place.batch)
        self._place = place
        if not complete:
            self._place = dataclasses.replace(place, epochs=epochs, stopped=False)
        if cluster.is_chief():
            _logger.warning(
                "CheckpointRecovery goes on from %s of %s%s%s.",
                place,
                self.directory,
                ", where this fit is complete"
                if complete
                else "; later steps are made again",
                "".join(f"; {change}" for change in resumption.changes),
            )

    def _skip(self, resumption: Resumption, epochs: int) -> None:
        """Lets a `fit` end at once that was completed before the checkpoint."""
        fit = self._place.fit
        resumption.give_weights(self._snapshot)
        self._earlier = resumption.earlier[:fit]
        for name, value in resumption.earlier[fit].items():
            setattr(self.model.history, name, value)
        self._go_to(epochs, 0)
        self._place = dataclasses.replace(self._place, epoch=epochs)
        self._resumption = None
        if cluster.is_chief():
            _logger.warning(
                "CheckpointRecovery skips fit %d, which is complete: %s has %s of fit "
                "%d. Until that goes on, the model has the weights of that step.",
                fit + 1,
                self.directory,
                resumption.place,
                resumption.place.fit + 1,
            )

    def _go_to(self, epoch: int, batch: int) -> None:
        """Lets Keras go on at a batch of an epoch."""
        fit = fits.running(self.model)
        if batch:
            raise NotImplementedError("mid-epoch")
        if fit is not None:
            fit.ending.enter_context(replaced(self.model, "_initial_epoch", epoch))

    def _save(self) -> None:
        """Hands the state to the writer."""
        began = time.monotonic()
        part = part_of(
            self.model, self._snapshot, self.whole_list, self._place, self._earlier
        )
        self._writer.submit(self._place.step, part)
        now = time.monotonic()
        self._schedule.saved(self._place.step, now, now - began)
        self._is_due = False

    def _new_schedule(self) -> Schedule:
        if self.every_steps is not None:
            return EverySteps(self.every_steps)

        def interval(cost: float) -> float:
            if self.every_seconds is not None:
                return self.every_seconds
            return best_interval(cost, self.time_between_failures, self.overhead)

        guessed = self._snapshot.size / _BYTES_PER_SECOND
        return EverySeconds(interval, guessed, self._ranks.of_chief)

    @property
    def _pending(self) -> Resumption | None:
        """The checkpoint, as long as it has to be put back once more."""
        resumption = self._resumption
        return resumption if resumption is not None and resumption.is_pending else None

    def _abandon(self) -> None:
        """Does not wait for ranks that may be gone, when `fit` has failed."""
        self._writer.close(abort=True)

    def _was_stopped_early(self) -> bool:
        kinds = keras.callbacks.EarlyStopping
        return any(
            isinstance(each, kinds) and each.stopped_epoch > 0
            for each in self.whole_list
        )

    def _refuse_another_model(self) -> None:
        known = self._trained() if self._trained is not None else None
        if known is not None and known is not self.model:
            raise ValueError(
                explain(
                    "One directory keeps the training of one model",
                    received=f"model {self.model.name!r} after {known.name!r}",
                    expected="a CheckpointRecovery for each",
                    hint="CheckpointRecovery(another directory) for the second one.",
                )
            )
        self._trained = weakref.ref(self.model)

    def _details(self) -> dict[str, Any]:
        return {name: str(value) for name, value in self.get_config().items()}
