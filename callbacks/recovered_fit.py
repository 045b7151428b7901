"""One `fit` whose state is saved, and which may go on from a state that was saved."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras

from tfdist import cluster
from tfdist.checkpoint.position import Position
from tfdist.checkpoint.retention import Best
from tfdist.checkpoint.snapshot import Arrays, Snapshot
from tfdist.checkpoint.store import Part, Store
from tfdist.checkpoint.writer import Writer
from tfdist.coordination import progress
from tfdist.coordination.preemption import EXIT_CODE, Preemption
from tfdist.gradients.attach import path_of
from tfdist.strategies import entry
from tfdist.strategies.course import course_of
from tfdist.strategies.steps import replaced

from . import keras_states
from .recovery_best import BestMetric
from .recovery_draws import Draws
from .recovery_model import (
    refuse_another_model,
    refuse_other_optimizers,
    running_fit,
    unknown_to_keras,
)
from .recovery_place import Place
from .recovery_ranks import Ranks, newest_common, open_together
from .recovery_resume import Resumption, part_of, ranks_needed
from .recovery_schedule import Schedule
from .recovery_states import refuse_half_states, try_states

_logger = logging.getLogger("tfdist")

History = dict[str, Any]


class RecoveredFit:
    """Opens the directory, resumes, saves when it is time, and closes.

    Its methods are called around those of all callbacks of the `fit`, in the order in
    which they stand here.

    Args:
        model: The model.
        callbacks: All callbacks of the `fit`.
        store: Of the directory; not open yet.
        place: Where the training was at the end of the `fit` before.
        earlier: The histories of the fits before.
        best: By which metric the best stays; the end of every epoch is saved then.
        others: Whether another model was trained in this directory and process.

    Attributes:
        resumed_step: The step of the checkpoint that it went on from, if any.
        draws: What is drawn at random, to be told when callbacks begin and end.
    """

    def __init__(
        self,
        model: keras.Model,
        callbacks: Sequence[Any],
        store: Store,
        place: Place,
        earlier: Sequence[History],
        *,
        best: Best | None = None,
        others: bool = False,
    ) -> None:
        self._model = model
        self._callbacks = callbacks
        self._store = store
        self._place = place
        self._earlier = list(earlier)
        self._each_epoch = best is not None
        self._others = others
        self._call = running_fit(model)
        self._best = BestMetric(best, self._call, callbacks)
        self.draws = Draws(self._call)
        # At the end others wait for the chief, which waits for their files.
        self._ranks = Ranks(model.distribute_strategy, 2 * store.timeout)
        self._writer = Writer(store)
        self._preemption = Preemption(self._ranks.stops)
        self._resumption: Resumption | None = None  # until it is put back for good
        self._snapshot: Snapshot
        self._schedule: Schedule
        self._base = 0  # steps made before this epoch
        self._is_due = False  # at the end of this epoch at the latest
        self._newest = 0  # the step of the newest checkpoint
        self._broken_off = False  # within this epoch, by another callback
        self._logs: Any = None  # of the last batch
        self._metrics: Arrays = {}  # before validation
        self.resumed_step: int | None = None

    @property
    def directory(self) -> str:
        """The path of the directory."""
        return self._store.path

    def open(self, details: dict[str, Any]) -> None:
        """Opens the directory and reads the newest checkpoint that all ranks have.

        Args:
            details: What the ranks have to agree on.
        """
        refuse_half_states(self._callbacks)
        self._preemption.install()
        self._call.ending.callback(self._preemption.remove)
        entry.build_from_shapes(self._model, self._call.loops[0])
        self._ranks.agree("checkpoint recovery", details)
        self._call.ending.callback(self._store.close)
        open_together(self._ranks, self._store)
        # Where `fit` has failed, other ranks may be gone: nobody waits for them.
        self._call.ending.callback(self._writer.close, abort=True)
        needed = partial(ranks_needed, self._model)
        checkpoint, passed_over = newest_common(self._ranks, self._store, needed)
        if passed_over:
            reasons = (f"step {step}: {why}" for step, why in passed_over.items())
            self._say("passes over checkpoints of %s: %s", "; ".join(reasons))
        if checkpoint is None:
            if self._place.step:  # saved in this process, and removed by the user
                self._place, self._earlier = Place(), []
            return
        if self._others:
            refuse_another_model(model_name=self._model.name, path=self.directory)
        resumption = Resumption(self._model, self._callbacks, checkpoint)
        if resumption.place.fit >= self._place.fit:  # else this one has made none yet
            self._resumption = resumption
            skipped = resumption.place.fit > self._place.fit
            resumption.before_train_begin(skipped=skipped)

    def begin(
        self,
        epochs: int,
        steps: int | None,
        schedule: Callable[[int, Callable[[int], int]], Schedule],
    ) -> None:
        """Puts the state of the checkpoint in the place of the present one.

        Args:
            epochs: That `fit` was given.
            steps: Batches of an epoch, if that is known.
            schedule: Returns when to save, from the bytes of the state and the
                function that tells all ranks the chief's number.
        """
        model, strategy = self._model, self._model.distribute_strategy
        refuse_other_optimizers(model)
        try_states(self._callbacks)
        self._best.refuse_unknown()
        self._epochs, self._steps = epochs, steps
        with strategy.scope():
            if model.optimizer is not None and not model.optimizer.built:
                model.optimizer.build(model.trainable_variables)
        if cluster.size() > 1:
            strategy.start_from_first(model)  # later it would undo what follows
        path = path_of(model.optimizer)
        apart = path is not None and path.method.outer is not None
        self._snapshot = Snapshot(model, model.optimizer, apart=apart)
        common, own = self._snapshot.capture(metrics=True, common=cluster.is_chief())
        self._writer.reserve(Part(own, common))  # the first save is then as short
        self._course = course_of(model)
        self._place = dataclasses.replace(
            self._place, epoch=0, batch=0, epochs=epochs, stopped=False
        )
        if self._resumption is None:
            self._say_what_is_not_repeatable(
                [*self._course.findings, *unknown_to_keras(self._model)]
            )
        elif self._resumption.place.fit > self._place.fit:
            self._skip(self._resumption)
        else:
            self._resume(self._resumption)
        progress.reach(self._place.step)
        self._base = self._place.step - self._place.batch
        self._schedule = schedule(self._snapshot.size, self._ranks.of_chief)
        self._schedule.begin(self._place.step, time.monotonic())

    def begin_epoch(self, epoch: int) -> None:
        """Notes the epoch; puts the state back once more in the middle of one."""
        self._is_due = self._broken_off = False
        if self._resumption is not None:
            self._resumption.after_epoch_begin(self._snapshot)
        else:
            self._place = dataclasses.replace(self._place, epoch=epoch, batch=0)

    def begin_batch(self) -> None:
        """Puts the state back a last time, before the first batch."""
        if self._resumption is not None:
            self._resumption.before_first_batch(self._snapshot)
            self._resumption = None  # and the memory that it takes

    def end_batch(self, logs: Any) -> None:
        """Saves if it is time."""
        self._writer.check()
        position = self._course.position()
        self._place = dataclasses.replace(
            self._place, step=self._base + position.batch, batch=position.batch
        )
        progress.reach(self._place.step)
        self._logs, self._metrics = logs, {}
        if self.resumed_step is None:
            self._say_what_is_not_repeatable(self.draws.findings())
        self._is_due |= self._schedule.is_due(self._place.step, time.monotonic())
        if self._preemption.due():
            self._leave(position)
        steps = position.length if self._steps is None else self._steps
        if steps is not None and position.batch >= steps:
            return  # the end of the epoch is a simpler place
        self._broken_off = self._model.stop_training
        if self._is_due or self._broken_off:
            self._save(position)

    def begin_test(self) -> None:
        """Notes the metrics of the epoch: validation begins with new ones."""
        self._metrics = self._snapshot.own_metrics()

    def end_test_batch(self) -> None:
        """Saves, and ends the process, if the machine is taken away in validation."""
        if self._preemption.due():
            self._leave(self._course.position())

    def end_epoch(self, epoch: int, logs: Any) -> None:
        """Saves if it is time, and after the last epoch."""
        self._resumption = None  # no batch may have been left of the epoch
        self._base = self._place.step
        if self._broken_off:
            return  # resumed where it was broken off, not after an epoch cut short
        stopped = keras_states.stopped_early(self._callbacks)
        self._place = dataclasses.replace(
            self._place, epoch=epoch + 1, batch=0, stopped=stopped
        )
        self._logs, self._metrics = logs, {}
        missing = self._best.missing_in(logs)
        if missing:
            self._say("keeps no best checkpoint in %s: %s", missing.removesuffix("."))
        if self._preemption.due():
            self._leave(self._course.next_epoch())
        last = epoch + 1 >= self._epochs or self._model.stop_training
        lacks_end = self._newest == self._place.step
        if self._is_due or self._each_epoch or last or lacks_end:
            self._save(self._course.next_epoch())

    def finish(self) -> tuple[Place, list[History]]:
        """Waits until all is written, on all ranks; returns where the training is.

        A `fit` that has returned is over for its script, also if a callback has broken
        it off: the next call is another one.
        """
        self._ranks.together("Saving a checkpoint", self._writer.close)
        self._resumption = None
        self._earlier.append(keras_states.state_of(self._model.history) or {})
        self._place = dataclasses.replace(self._place, fit=self._place.fit + 1)
        return self._place, self._earlier

    def _resume(self, resumption: Resumption) -> None:
        """Goes on in the same `fit`."""
        self._ranks.together(
            "Checking a checkpoint", lambda: resumption.check(self._snapshot)
        )
        place = resumption.place
        complete = place.is_complete(self._epochs)
        self._ranks.together(
            "Going on in the data", lambda: resumption.resume_data(self._course)
        )
        if complete:
            self._leave_out(max(place.epoch, self._epochs))
        resumption.after_train_begin(self._snapshot)
        if place.batch == 0:
            self._resumption = None
        self._earlier, self._place = resumption.earlier, place
        if not complete:
            self._place = dataclasses.replace(place, epochs=self._epochs, stopped=False)
        self.resumed_step = self._newest = place.step
        rest = "where this fit is complete" if complete else "later ones are made again"
        changes = "".join(f"; {change}" for change in resumption.changes)
        self._say("goes on in %s from %s, %s%s", place, rest, changes)

    def _skip(self, resumption: Resumption) -> None:
        """Lets a `fit` end at once that was over before the checkpoint."""
        fit = self._place.fit
        resumption.give_weights(self._snapshot)
        self._resumption = None
        self._earlier = resumption.earlier[:fit]
        keras_states.set_state(self._model.history, resumption.earlier[fit])
        self._leave_out(self._epochs)
        self._place = dataclasses.replace(self._place, epoch=self._epochs)
        self._say(
            "has in %s %s of fit %d: fit %d, which was over before, is skipped, "
            "and the model gets the weights of that step",
            resumption.place,
            resumption.place.fit + 1,
            fit + 1,
        )

    def _leave_out(self, epochs: int) -> None:
        """Lets Keras begin behind its last epoch."""
        self._call.ending.enter_context(replaced(self._model, "_initial_epoch", epochs))

    def _leave(self, position: Position) -> None:
        """Saves and ends the process, when all ranks have saved.

        Raises:
            SystemExit: With the code that says so.
        """
        self._save(position)
        self._ranks.together("Saving a checkpoint", self._writer.wait)
        self._say("has saved in %s %s in time: the machine is taken away", self._place)
        raise SystemExit(EXIT_CODE)

    def _save(self, position: Position) -> None:
        """Hands the state to the writer."""
        began = time.monotonic()
        part = part_of(
            self._model,
            self._snapshot,
            self._callbacks,
            self._place,
            data=self._course.state(position),
            logs=keras_states.as_arrays(self._logs),
            metrics=self._metrics,
            earlier=self._earlier,
        )
        self._writer.submit(self._place.step, part)
        self._newest = self._place.step
        now = time.monotonic()
        self._schedule.saved(self._place.step, now, now - began)
        self._is_due = False

    def _say_what_is_not_repeatable(self, findings: Sequence[str]) -> None:
        if findings:
            self._say(
                "will not be able to repeat all that went on before a step of %s: %s",
                " ".join(findings).removesuffix("."),
            )

    def _say(self, text: str, *details: Any) -> None:
        if cluster.is_chief():
            _logger.warning(f"CheckpointRecovery {text}.", self._store.path, *details)
