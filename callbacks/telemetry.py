"""Where the time goes: throughput, waiting, stragglers and more, while training."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import tensorflow as tf

from tfdist import cluster
from tfdist.gradients.attach import path_of
from tfdist.strategies import fits
from tfdist.strategies.training import KerasTraining
from tfdist.telemetry.table import EPOCH, STEPS

from . import telemetry_figures as figures
from .arguments import checked_integer, checked_path, require_own_strategy
from .bytes_sent import bytes_per_step
from .loss_scale import scaler_of
from .place import Placed, adds_to_logs
from .telemetry_files import Files, FilesOfChief, problem_of, refuse_folder
from .telemetry_parts import Parts, gathered_text
from .timeline import Timeline, checked_range, timeline_of

_logger = logging.getLogger("tfdist")


class Telemetry(Placed):
    """Measures where the time of a training goes, on all ranks.

    Use it to learn what limits a run, before changing anything: is it the model, the
    input pipeline, the network, or one slow rank for which all others wait? It tells so
    in one line at the end, in the logs of every epoch, and in files that `tfdist plot`
    makes a picture of.

    A step's wall time (from batch to batch, validation left out) is divided into

    - waiting for input: from when the step asks for its batch until it is there, and
      the making of an epoch's iterator;
    - waiting for other ranks: from when all of the rank's own gradients are computed
      until it has those of all ranks, without what a compressor computes meanwhile;
      the same for the finite flag of loss scaling, the denominators of uneven batches
      and layers such as synchronised BatchNormalization. Communication that computing
      hides does not count; packing the gradients does. So it holds the time that
      slower ranks need longer, and the network's;
    - computing: all the rest, with Keras's own time and that of callbacks.

    All ranks end their steps together. The slowest rank is the one whose own time
    (computing and waiting for input) is the longest: the others wait for it. Each rank
    is a process; of the replicas of one process, the first is measured.

    It takes no part in the training: nothing that is computed changes. Operations that
    read the clock are added to the step, and taken out at the end of `fit`. Ranks tell
    each other their sums in one small collective each `every` steps and where an epoch
    ends in between. The first execution of a `fit`, which traces, is left out, unless
    it is the only one of its epoch. Where `jit_compile=True` makes one XLA program of
    the step, only its duration is known.

    Logs of an epoch, equal on all ranks: `examples_per_second` (of all ranks),
    `step_ms`, `input_ms` and `communication_ms` (mean over the ranks), `slowest_rank`,
    `bytes_per_step` (that reach each rank for dense gradients, by formula),
    `memory_mb` (largest resident set of any rank, 10^6 bytes), `device_memory_mb` on
    GPUs; and `learning_rate` and `loss_scale`, where no other callback has them.

    Args:
        log_dir: A folder for `telemetry.csv` (columns: `tfdist.telemetry.table.Row`)
            and scalars for TensorBoard, written by the chief. None: no files.
        every: Steps between two rows of the files; an epoch's last row may have fewer.
        timeline: (first, last) steps of this `fit`, from 1, to be recorded in Chrome
            traces in `log_dir`/timeline: TensorFlow's of each rank, and Horovod's by
            the chief. True: steps 11 to 20. Recording slows these steps down.

    Raises:
        ValueError: `every` below 1; a folder that cannot be written; a timeline that
            ends before it begins, or without a folder; a wrong place in the
            list; a strategy that is not tfdist's.
        TfdistError: The ranks were given different arguments.

    Example:
        >>> telemetry = tfdist.callbacks.Telemetry("runs/first")
        >>> model.fit(dataset, epochs=5, callbacks=[telemetry])
    """

    precedes: ClassVar = adds_to_logs("Telemetry")

    def __init__(
        self,
        log_dir: str | os.PathLike[str] | None = None,
        every: int = 100,
        timeline: bool | Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if log_dir is not None:
            log_dir = checked_path("log_dir", log_dir, hint='Telemetry("runs/first")')
        self.log_dir = log_dir
        self.every = checked_integer("every", every, least=1)
        self.timeline = checked_range(timeline, self.log_dir)
        self._parts: Parts | None = None  # while `fit` runs
        self._files = Files()
        self._timeline = Timeline()
        self._ending = contextlib.ExitStack()
        self._hosts: list[str] = []
        self._steps = 0  # of the training before this `fit`
        self._seconds = 0.0  # likewise
        self._epoch = 0
        self._of_epoch = self._of_fit = figures.nothing(1)  # measured on all ranks
        self._restored: Sequence[Mapping[str, Any]] | None = None
        fits.install()

    def on_train_begin(self, logs: Any = None) -> None:
        """Checks everything, and starts to measure."""
        self._ending.close()  # of a loop without `fit` that was broken off
        strategy = self.model.distribute_strategy
        if strategy.num_replicas_in_sync > 1:
            require_own_strategy("Telemetry", strategy)
        if isinstance(strategy, KerasTraining):
            details = {name: str(value) for name, value in self.get_config().items()}
            strategy.agree("telemetry", details)
        self._prepare_files(strategy)
        self._hosts = gathered_text(strategy, socket.gethostname())
        self._of_epoch = self._of_fit = figures.nothing(len(self._hosts))
        fit = fits.running(self.model)
        if fit is not None:
            fit.ending.enter_context(self._ending)
        self._timeline = timeline_of(self.timeline, self.log_dir, self.model)
        self._ending.callback(self._timeline.close)
        self._parts = Parts(self.model, self._executed)
        self._ending.enter_context(self._parts.in_force())
        self._ending.callback(self._keep_position)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Starts an epoch's figures, or goes on with those of an interrupted one."""
        self._epoch = epoch
        self._of_epoch = figures.nothing(len(self._hosts))
        if self._restored is not None and self._restored[0]["epoch"] == epoch:
            measured = np.array([state["measured"] for state in self._restored])
            if measured.shape == self._of_epoch.shape:
                self._of_epoch = measured
        self._restored = None
        cast(Parts, self._parts).begin()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Logs the epoch's figures, and writes them down."""
        if cast(Parts, self._parts).has_steps:
            self._end_part()
        measured, self._of_epoch = self._of_epoch, figures.nothing(len(self._hosts))
        if not measured[:, 0].all():
            return  # no rank has made a step that was measured
        self._of_fit = figures.together(self._of_fit, measured)
        found = figures.for_logs(measured) | self._settings()
        if logs is not None:
            for name, value in found.items():
                logs.setdefault(name, value)
        self._write(EPOCH, measured, {**found, **(logs or {})})

    def on_train_end(self, logs: Any = None) -> None:
        """Says where the time went."""
        if cluster.is_chief() and self._of_fit[:, 0].all():
            _logger.warning(figures.advice(self._of_fit, self._hosts))
        self._ending.close()

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments as plain data."""
        return {
            "log_dir": self.log_dir,
            "every": self.every,
            "timeline": None if self.timeline is None else list(self.timeline),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Telemetry:
        """Undoes `get_config`."""
        return cls(**config)

    def get_state(self) -> dict[str, Any]:
        """Returns how far this process has come.

        Returns:
            "steps" (int) and "seconds" (float) of the whole training, "epoch" (int) and
            "measured" (floats: what this process has measured of that epoch so far).
        """
        rank = cluster.rank() % len(self._of_epoch)
        if self._restored is not None:
            return dict(self._restored[rank % len(self._restored)])
        return {
            "steps": self._steps_made(),
            "seconds": self._seconds_spent(),
            "epoch": self._epoch,
            "measured": self._of_epoch[rank].tolist(),
        }

    def set_state(self, states: Sequence[dict[str, Any]]) -> None:
        """Goes on from the states of all processes; call it before the first epoch.

        The files go on where the states were taken: rows of later steps, which a lost
        run has written, are removed.

        Args:
            states: What `get_state` returned on all processes, in order of rank; the
                same list on every process.
        """
        self._restored = list(states)
        self._steps += states[0]["steps"] - self._steps_made()
        self._seconds += states[0]["seconds"] - self._seconds_spent()
        self._files = self._files.anew()

    def _prepare_files(self, strategy: Any) -> None:
        """Refuses on all ranks a folder in which the chief cannot write."""
        if self.log_dir is None:
            return
        folder = Path(self.log_dir)
        own = problem_of(folder) if cluster.is_chief() else ""
        problem = gathered_text(strategy, own, size=200)[0]
        if problem:
            refuse_folder(self.log_dir, problem)
        if cluster.is_chief() and type(self._files) is Files:
            self._files = FilesOfChief(folder)

    def _keep_position(self) -> None:
        """Goes on from here in the next `fit`, also if this one has failed."""
        self._steps, self._seconds = self._steps_made(), self._seconds_spent()
        self._parts = None

    def _executed(self, steps: int) -> None:
        """Ends a part of the training when it is time."""
        self._timeline.executed()
        if self.log_dir is not None and steps >= self.every:
            self._end_part()

    def _end_part(self) -> None:
        measured = cast(Parts, self._parts).end()
        if measured[:, 0].all():
            self._of_epoch = figures.together(self._of_epoch, measured)
            self._write(STEPS, measured, self._settings())

    def _settings(self) -> dict[str, float]:
        """Returns what is in force, apart from times."""
        optimizer = getattr(self.model, "optimizer", None)
        ranks = self.model.distribute_strategy.num_replicas_in_sync
        found = {"bytes_per_step": bytes_per_step(path_of(optimizer), ranks)}
        rate = getattr(optimizer, "learning_rate", None)
        if rate is not None:
            found["learning_rate"] = float(tf.convert_to_tensor(rate))
        scaler = scaler_of(optimizer)
        if scaler is not None:
            found["loss_scale"] = float(tf.convert_to_tensor(scaler.dynamic_scale))
        return found

    def _write(
        self, scope: str, measured: np.ndarray, known: Mapping[str, Any]
    ) -> None:
        """Writes a row for all ranks and one for each."""
        if type(self._files) is Files:
            return
        known = {name: float(v) for name, v in known.items() if np.ndim(v) == 0}
        self._files.write(
            figures.rows(
                measured,
                self._hosts,
                known,
                scope=scope,
                epoch=self._epoch,
                step=self._steps_made(),
                time=self._seconds_spent(),
            ),
            steps_before=self._steps,
        )

    def _steps_made(self) -> int:
        return self._steps + (0 if self._parts is None else self._parts.steps)

    def _seconds_spent(self) -> float:
        return self._seconds + (0.0 if self._parts is None else self._parts.seconds)
