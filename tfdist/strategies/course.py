"""The course of a `fit` through its data: noted, and taken up again in its middle.

Keras keeps where it is in local variables. So its own loop over the batches is
watched, and to resume it is first run through without data (its counters, its hooks
and the passes that it begins are then what they were), and given the data from the
batch on that comes next.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from tfdist.checkpoint.position import Position
from tfdist.errors import TfdistError, explain
from tfdist.gradients import keras_names
from tfdist.strategies import fits
from tfdist.strategies.fit_data import FitData
from tfdist.strategies.passes import Pass, Passes
from tfdist.strategies.steps import replaced


def course_of(model: Any) -> Course:
    """Returns the course of the `fit` that this model is in.

    Call it in `on_train_begin`, once, on all ranks; and `fits.install` before `fit`.

    Raises:
        TfdistError: The model is in no `fit`, or this Keras has other names.
    """
    fit = fits.running(model)
    if fit is None or not fit.loops:
        raise TfdistError(
            explain(
                "The data of this fit is unknown",
                received=f"model {model.name!r}, in no fit that was noted",
                expected="a call in on_train_begin of a Keras callback",
                hint="Make the callback before you call model.fit.",
            )
        )
    return Course(fit)


class Course:
    """Where one `fit` is in its data.

    Args:
        fit: The call of `fit`, before its first epoch.
    """

    def __init__(self, fit: fits.Call) -> None:
        self._model = fit.model
        self._loop = fit.loops[0]
        keras_names.require(self._model, keras_names.EPOCHS)
        keras_names.require(self._loop, keras_names.LOOP)
        self._data = FitData(fit, self._loop)
        self._ending = fit.ending
        self._epoch = fit.initial_epoch  # the present one, or else the first
        self._batch = 0  # where its present execution began
        self._made = 0  # batches that this one makes
        self._begun = False
        self._start = 0  # the first batch of the epoch that begins next
        self._random_at_fit = self._random_at_epoch = self._data.random_state()
        kept = self._model._initial_epoch  # Keras keeps it for every later fit
        self._ending.callback(setattr, self._model, "_initial_epoch", kept)
        self._replace("_enumerate_iterator", self._steps_of_epoch)

    @property
    def findings(self) -> tuple[str, ...]:
        """What of the data a resumed run could not repeat, each one a sentence."""
        return self._data.findings

    def position(self) -> Position:
        """Returns where the fit is: at the end of a batch, and up to that of the epoch.

        Batches that `steps_per_execution` makes at once are done at once.
        """
        length = self._length()
        # The execution that found no data left made no batch.
        made = 0 if self._has_run_out(length) else self._made
        return Position(self._epoch, self._batch + made, length)

    def next_epoch(self) -> Position:
        """Returns the start of the next epoch, for the very end of this one."""
        return Position(self._epoch + 1, 0, self._length())

    def state(self, position: Position) -> dict[str, Any]:
        """Returns all that `resume` needs: plain data and arrays.

        Args:
            position: `position()` or `next_epoch()`.
        """
        return {
            "position": position.as_plain_data(),
            "data": self._data.details,
            "random_at_fit": self._random_at_fit,
            "random_at_epoch": self._random_at_epoch if position.batch else None,
        }

    def resume(
        self, state: Mapping[str, Any], logs: Mapping[str, Any] | None = None
    ) -> None:
        """Makes this fit go on where another one was; call it in `on_train_begin`.

        Callbacks see the epochs and batches that follow, under their own numbers. Of
        an epoch whose batches are all done, only the end follows.

        Args:
            state: What `state` returned there.
            logs: Those of the last batch made: Keras takes the epoch's from them if
                no other batch follows.

        Raises:
            ValueError: This fit has other data or batches.
        """
        position = Position.from_plain_data(state["position"])
        self._data.refuse_other(state["data"], position)
        self._refuse_middle_of_execution(position)
        self._data.restart(state["data"])
        self._random_at_fit = state["random_at_fit"]
        self._random_at_epoch = state["random_at_epoch"]
        passes = Passes(self._data.leave)
        self._replace("_get_iterator", lambda: passes)
        self._ending.callback(passes.close)  # a later fit may go on with the same data
        with self._data.random(self._random_at_fit), self._data.idle():
            while self._epoch < position.epoch:
                self._run_through(position.length)
                self._epoch += 1
        self._epoch = position.epoch
        self._start = position.batch
        self._model._initial_epoch = position.epoch
        if position.batch:
            self._end_epoch_with(dict(logs or {}))

    def _refuse_middle_of_execution(self, position: Position) -> None:
        together = self._loop.steps_per_execution
        batches = self._loop.num_batches
        if position.batch % together and (batches is None or position.batch < batches):
            raise ValueError(
                explain(
                    f"The run was saved after {position.batch} batches of epoch "
                    f"{position.epoch}, in the middle of an execution",
                    received=f"steps_per_execution={together}",
                    expected=f"a divisor of {position.batch}",
                    hint="Compile with the steps_per_execution that it had before.",
                )
            )

    def _replace(self, name: str, method: Any) -> None:
        """Gives Keras's loop another method until `fit` ends."""
        self._ending.callback(self._loop.__dict__.pop, name, None)
        setattr(self._loop, name, method)

    def _steps_of_epoch(self) -> Iterator[Any]:
        """Yields what Keras's own method would, from the right batch on."""
        self._epoch += self._begun
        self._begun = True
        start, self._start = self._start, 0
        self._batch, self._made = start, 0
        steps = self._keras_steps()
        if start:
            yield from self._steps_from(start, steps)
        else:
            self._random_at_epoch = self._data.random_state()
        for step in steps:
            yield self._with_data(step)

    def _steps_from(self, batch: int, steps: Iterator[Any]) -> Iterator[Any]:
        """Passes over what is done, and yields the first step that is not.

        Data that Python code makes drew from the random states when the epoch began,
        and draws from these again, before the step that follows: in between and
        afterwards they are the run's.
        """
        with self._data.random(self._random_at_epoch):
            step = next(steps, None)
            begun = self._data.random_state()
        while step is not None and step[0] < batch:
            self._take(step)
            step = next(steps, None)
        if step is not None:
            with self._data.random(begun):
                step = self._with_data(step)
            yield step

    def _run_through(self, length: int | None) -> None:
        """Goes through an epoch without data, as far as the data once went."""
        with warnings.catch_warnings(), self._loop.catch_stop_iteration():
            warnings.simplefilter("ignore")  # Keras has said before what it says
            for step in self._keras_steps():
                if self._has_run_out(length):
                    raise StopIteration
                self._take(step)

    def _keras_steps(self) -> Iterator[Any]:
        return type(self._loop)._enumerate_iterator(self._loop)

    def _take(self, step: Any) -> None:
        for _ in range(self._loop.steps_per_execution):
            next(step[-1])

    def _with_data(self, step: Any) -> Any:
        self._batch, self._made = step[0], self._loop.steps_per_execution
        *numbers, batches = step
        if isinstance(batches, Pass):
            if batches.real is None:
                batches.real = self._data.iterator_from(batches.taken)
            batches = batches.real
        return *numbers, batches

    def _length(self) -> int | None:
        known = self._loop.data_adapter.num_batches is not None
        return None if known else self._loop._num_batches

    def _has_run_out(self, length: int | None) -> bool:
        """Returns whether the present execution finds, or found, no more data."""
        return length is not None and self._loop._steps_seen >= length

    def _end_epoch_with(self, logs: dict[str, Any]) -> None:
        """Gives Keras the logs of an epoch in which this process makes no batch."""
        own = self._model._get_metrics_result_or_logs
        self._ending.enter_context(
            replaced(
                self._model,
                "_get_metrics_result_or_logs",
                lambda found: own(found or logs),
            )
        )
