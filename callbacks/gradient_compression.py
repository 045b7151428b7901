"""Fewer bytes between replicas: gradient compression under plain `fit`."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any, ClassVar, cast

import keras

from tfdist import cluster, compression
from tfdist.compression.compressor import settle_feedback
from tfdist.compression.residuals import residuals_for
from tfdist.errors import explain
from tfdist.gradients import keras_names
from tfdist.gradients.attach import GradientPath, attach, path_of
from tfdist.gradients.compressed import CompressedSum, slots_of
from tfdist.gradients.reduction import Kind, kinds_from_plain, plain_kinds
from tfdist.strategies import fits

from .arguments import checked_integer, require_own_strategy
from .batches_made import batches_made
from .compression_figures import Figures
from .compression_start import checked_start, start_of, steps_before, warmup_steps_of
from .compression_warnings import (
    say_what_is_left,
    say_what_stays,
    told_by_chief,
    warn_of_adaptive_optimizer,
)
from .place import Placed, adds_to_logs

_logger = logging.getLogger("tfdist")


class GradientCompression(Placed):
    """Sends compressed gradients, and later what compression has left out.

    Use it where the network is slower than the computation: on 1 Gbit/s and less
    nearly always, on 10 Gbit/s rarely, inside one machine not. `tfdist estimate`
    predicts it for your links. Training with error feedback reaches the accuracy of
    uncompressed training, because no part of any gradient is lost: rank i adds to
    its gradient g what it did not send before,

        c = g + e;  sent = C(c);  e = c - sent

    and the optimizer gets the sum of what all ranks sent. Everything else in the
    step stays as it is: accumulation before, clipping after compression; a step that
    is not finite on some rank is skipped by all and leaves no trace, also where no
    loss scale is in use. Sparse gradients and small tensors travel as they are.

    With one replica it does nothing; one that goes on where several have stopped adds
    what these have not sent yet to its first step. It works for one `fit`; given again
    to a second one, it goes on with what it remembers.

    Args:
        compressor: A name (`tfdist.compression.names()`) or an object such as
            `PowerSGD(rank=4)`.
        start_step: The training step from which to compress; those before `fit`'s
            `initial_epoch` count. "auto": where the warm-up of the learning rate
            ends, else 10 % of all steps, else 100. The first execution is never
            compressed: it tells what the gradients are.
        error_feedback: True, False, or "auto": the compressor's default.
        residual_lr_correction: Counts residuals in steps of the weights, not in
            gradients: they are scaled when the learning rate changes.
        log: Whether the logs of an epoch get `bytes_per_step` (that reach each rank
            over the network, by formula), `compression_ratio`, `residual_norm` (root
            mean square over the ranks) and `compression_ms` (per step, the ranks'
            mean: by how long computing delays it once all gradients are there. What
            is hidden is not in it, by the backward pass or by other buffers that
            travel, and neither is waiting).
        min_size: Tensors with fewer elements travel uncompressed.
        seed: For the draws of compressors; equal on all ranks.
        **parameters: Parameters of a compressor that is given by name.

    Raises:
        ValueError: Unknown compressor or parameter, a parameter out of range, an
            unsound choice of error feedback, a wrong place in the list.
        TfdistError: The ranks were given different compressors.

    References:
        Karimireddy, Rebjock, Stich, Jaggi, Error feedback fixes SignSGD and other
        gradient compression schemes, ICML 2019.

    Example:
        >>> compress = tfdist.callbacks.GradientCompression("powersgd", rank=4)
        >>> model.fit(dataset, epochs=5, callbacks=[compress])
    """

    precedes: ClassVar = adds_to_logs("GradientCompression")

    def __init__(
        self,
        compressor: str | compression.Compressor = "powersgd",
        *,
        start_step: int | str = "auto",
        error_feedback: bool | str = "auto",
        residual_lr_correction: bool = False,
        log: bool = True,
        min_size: int = 1024,
        seed: int = 0,
        **parameters: Any,
    ) -> None:
        super().__init__()
        self.compressor = compression.get(compressor, **parameters)
        self.error_feedback = settle_feedback(self.compressor, error_feedback)
        self.start_step = checked_start(start_step)
        self.residual_lr_correction = residual_lr_correction
        self.log = log
        self.min_size = checked_integer("min_size", min_size)
        self.seed = checked_integer("seed", seed, most=2**32 - 1)
        self._path: GradientPath | None = None
        self._sum: CompressedSum | None = None
        self._restored: list[dict[str, Any]] | None = None
        self._seen: tuple[Kind, ...] | None = None  # the gradients, before it began
        self._epoch_before: list[int] = [0, 0]  # what a resumed epoch has made
        self._trained: keras.Model | None = None
        self._start = 0
        self._steps = 0  # made in all epochs before this one
        self._figures = Figures()
        fits.install()

    def on_train_begin(self, logs: Any = None) -> None:
        """Checks everything that can be known before the first step."""
        strategy = self.model.distribute_strategy
        if strategy.num_replicas_in_sync == 1 and not self._owes():
            self._path = None
            return
        self._path = self._own_path(strategy)
        if self._trained not in (None, self.model):
            self._sum, self._seen, self._steps = None, None, 0  # another model's
        self._trained = self.model
        self._agree("gradient compression", self._details())
        if self._sum is None:
            warn_of_adaptive_optimizer(self._path.optimizer, self.compressor)
        warm_up = warmup_steps_of(self.model.optimizer)
        if not (self._steps or self._epoch_before[0]):
            steps = self.params.get("steps")
            self._steps = steps_before(self.model, steps, warm_up)
        self._start = start_of(self.start_step, warm_up, self.params)
        if self._path.forget_if_frozen():
            self.model.make_train_function(force=True)
        if self._path.kinds is None:
            self._path.kinds = self._seen
        if self._sum is not None or self._restored is not None:
            self._switch(self._path)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Starts the epoch's figures."""
        self._figures.begin_epoch(self._epoch_before)
        self._epoch_before = [0, 0]

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Starts to compress when it is time."""
        if self._path is None:
            return
        if not self._is_on():
            due = self._steps + batch >= self._start
            if due and self._path.kinds is not None:
                self._switch(self._path)
        self._figures.compressing = self._is_on()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Counts the steps."""
        self._figures.count(batches_made(self, batch))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Adds the epoch's figures to its logs."""
        self._steps += self._figures.steps
        if self._path is not None and self.log and logs is not None:
            strategy = self.model.distribute_strategy
            logs.update(self._figures.of_epoch(strategy, self._path, self._sum))
        self._figures.begin_epoch()

    def on_train_end(self, logs: Any = None) -> None:
        """Says so if compression never began."""
        if self._path is not None and not self._is_on() and cluster.is_chief():
            _logger.warning(
                "GradientCompression never began: training ended after %d steps, it "
                "was to begin with step %d. HINT: Pass start_step.",
                self._steps,
                self._start,
            )

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments as plain data."""
        return {
            "compressor": compression.serialize(self.compressor),
            "start_step": self.start_step,
            "error_feedback": self.error_feedback,
            "residual_lr_correction": self.residual_lr_correction,
            "log": self.log,
            "min_size": self.min_size,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> GradientCompression:
        """Undoes `get_config`."""
        compressor = compression.deserialize(config["compressor"])
        return cls(**{**config, "compressor": compressor})

    def get_state(self) -> dict[str, Any]:
        """Returns what this process has to remember, to go on exactly.

        Returns:
            "steps" (int) of all epochs before, "epoch" (steps of this one, and those
            compressed), "seen" (what the gradients are, as plain lists; None before the
            first step), "kinds" (the same; None before compression began) and "arrays"
            (name -> array: the residuals of this process's replicas with a leading
            dimension, all else equal on all ranks).
        """
        seen = self._seen if self._path is None else self._path.kinds
        state: dict[str, Any] = {
            "steps": self._steps,
            "epoch": self._figures.state,
            "seen": plain_kinds(seen),
            "kinds": None,
            "arrays": {},
        }
        if self._sum is not None:
            state |= {
                "kinds": plain_kinds(self._sum.kinds),
                "arrays": self._sum.state(),
            }
        return state

    def set_state(self, states: Sequence[dict[str, Any]]) -> None:
        """Goes on from the states of all processes; call it before `fit`.

        With as many replicas as saved them, training goes on bit for bit. With
        another number, each gets the mean residual: nothing that was not sent yet is
        lost, and what linear compressors compute does not change.

        Args:
            states: What `get_state` returned on all processes, in order of rank; the
                same list on every process.
        """
        first = states[0]
        self._steps, self._epoch_before = first["steps"], list(first["epoch"])
        self._seen = kinds_from_plain(first["seen"])
        self._restored = list(states) if first["kinds"] is not None else None
        self._sum = self._trained = None

    def _owes(self) -> bool:
        """Returns whether several replicas have left something to the only one."""
        if self._restored is not None:
            kinds = kinds_from_plain(self._restored[0]["kinds"]) or ()
            names = {variable.name for variable in self.model.trainable_variables}
            own = all(kind.path.partition(".")[2] in names for kind in kinds)
            say_what_is_left(own)
            if not own:  # an outer optimizer's, which one replica has not
                self._restored = None
        return self._restored is not None or self._sum is not None

    def _agree(self, what: str, details: dict[str, Any]) -> None:
        strategy = self.model.distribute_strategy
        if strategy.num_replicas_in_sync > 1:  # TensorFlow's own strategy cannot
            strategy.agree(what, details)

    def _own_path(self, strategy: Any) -> GradientPath:
        if strategy.num_replicas_in_sync > 1:
            require_own_strategy("GradientCompression", strategy)
        if not self.model.trainable_variables:
            raise ValueError(
                explain(
                    "GradientCompression found nothing to compress",
                    received="a model without trainable variables",
                    expected="a model that is trained by gradients",
                    hint="Leave GradientCompression out, or set layer.trainable.",
                )
            )
        with strategy.scope():
            attach(self.model.optimizer, self.model)
        path = cast(GradientPath, path_of(self.model.optimizer))
        return path.method.outer or path

    def _details(self) -> dict[str, Any]:
        return {name: str(value) for name, value in self.get_config().items()}

    def _rate(self) -> Any:
        path = cast(GradientPath, self._path)  # of the `fit` that is being traced
        return keras_names.innermost(path.optimizer).learning_rate

    def _is_on(self) -> bool:
        return self._path is not None and self._path.method.reduction is self._sum

    def _switch(self, path: GradientPath) -> None:
        """Lets the next trace of the training step compress."""
        if self._sum is None:
            self._sum = self._compressed_sum(path)
        path.method = dataclasses.replace(path.method, reduction=self._sum)
        self.model.make_train_function(force=True)

    def _compressed_sum(self, path: GradientPath) -> CompressedSum:
        strategy = self.model.distribute_strategy
        kinds = path.kinds or ()
        if self._restored is not None:
            kinds = kinds_from_plain(self._restored[0]["kinds"]) or ()
        with told_by_chief():
            fused = compression.Fused(
                self.compressor,
                slots_of(kinds),
                strategy.num_replicas_in_sync,
                has_all_to_all=hasattr(strategy, "all_to_all"),
                error_feedback=self.error_feedback,
                seed=self.seed,
                min_size=self.min_size,
            )
        self._agree("compressed gradients", {"fingerprint": fused.fingerprint()})
        say_what_stays(kinds, fused)
        self._figures.begin_sum()
        result = CompressedSum(
            fused,
            kinds,
            strategy,
            learning_rate=self._rate if self.residual_lr_correction else None,
            # XLA, which Keras uses where there is one replica, cannot read the clock.
            timed=self.log and strategy.num_replicas_in_sync > 1,
        )
        if self._restored is not None:
            count = strategy.num_replicas_in_sync // cluster.size()
            own = residuals_for(
                [state["arrays"] for state in self._restored],
                replicas=strategy.num_replicas_in_sync,
                first=cluster.rank() * count,
                count=count,
            )
            result.assign(own)
            self._restored = None
        return result
