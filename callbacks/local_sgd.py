"""Less communication: replicas that agree only every so many steps."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, cast

import keras

from tfdist.errors import explain
from tfdist.gradients import keras_names
from tfdist.gradients.attach import GradientPath, attach, path_of
from tfdist.gradients.local_steps import OuterSteps, OwnGradients
from tfdist.gradients.method import PLAIN
from tfdist.strategies import fits, synchronize

from .arguments import checked_integer, require_own_strategy
from .place import Placed


class LocalSGD(Placed):
    """Lets each replica train on its own, and averages the weights periodically.

    Use it on links so slow that even compressed gradients in every step cost too
    much. Between two averages each replica applies the gradient of its own part of
    the batch; every `sync_every` updates, and at the end of each epoch (so that
    validation and checkpoints see one model), the weights of all replicas become

        w = mean over the replicas of w_i

    or, with an outer optimizer, o - mean(w_i) is its gradient at the last common
    weights o (with Nesterov momentum: DiLoCo). Moving statistics are averaged too, and
    whatever else layers learn without gradients; the optimizer's own state stays with
    each replica. With `sync_every=1` and plain SGD the result is that of one process;
    otherwise this is another algorithm, whose accuracy has to be compared.

    `GradientCompression`, placed after it, compresses what is exchanged: the
    differences of the weights. Metrics are still summed in every step. With one
    replica it does nothing.

    Args:
        sync_every: Updates of the weights between two averages.
        outer_optimizer: A Keras optimizer, such as
            `keras.optimizers.SGD(0.7, momentum=0.9, nesterov=True)`; a copy of it is
            used. None: the mean.

    Raises:
        ValueError: A wrong argument, a wrong place in the list, or an optimizer with
            `use_ema`.
        TfdistError: The ranks were given different arguments.

    References:
        Stich, Local SGD converges fast and communicates little, ICLR 2019.
        Douillard et al., DiLoCo: distributed low-communication training of language
        models, arXiv:2311.08105, 2023.

    Example:
        >>> nesterov = keras.optimizers.SGD(0.7, momentum=0.9, nesterov=True)
        >>> model.fit(dataset, callbacks=[tfdist.callbacks.LocalSGD(50, nesterov)])
    """

    precedes: ClassVar = {
        "GradientCompression": "LocalSGD changes what GradientCompression works on"
    }

    def __init__(
        self,
        sync_every: int,
        outer_optimizer: keras.optimizers.Optimizer | None = None,
    ) -> None:
        super().__init__()
        self.sync_every = checked_integer("sync_every", sync_every, least=1)
        if outer_optimizer is None:
            outer_optimizer = keras.optimizers.SGD(1.0)
        if not isinstance(outer_optimizer, keras.optimizers.Optimizer):
            raise ValueError(
                explain(
                    "outer_optimizer applies the replicas' mean difference",
                    received=repr(outer_optimizer),
                    expected="a Keras optimizer, or None for the mean of the weights",
                    hint="outer_optimizer=keras.optimizers.SGD(0.7, momentum=0.9, "
                    "nesterov=True)",
                )
            )
        self.outer_optimizer = outer_optimizer
        self._outer: OuterSteps | None = None
        self._restored: dict[str, Any] | None = None
        self._ending = contextlib.ExitStack()
        fits.install()

    def on_train_begin(self, logs: Any = None) -> None:
        """Makes the replicas' steps their own, from common weights on."""
        self._ending.close()  # of a loop without `fit` that was broken off
        strategy = self.model.distribute_strategy
        if strategy.num_replicas_in_sync == 1:
            self._restored = None  # the weights will not be those it began with
            return
        require_own_strategy("LocalSGD", strategy)
        strategy.agree("local steps", {k: str(v) for k, v in self.get_config().items()})
        with strategy.scope():
            attach(self.model.optimizer, self.model)
        path = cast(GradientPath, path_of(self.model.optimizer))
        self._refuse_moving_average()
        strategy.start_from_first(self.model)
        outer = self._outer = self._outer_steps(path)
        if self._restored is not None:
            outer.assign(self._restored)
            self._restored = None
        else:
            outer.begin()
        self._ending.callback(self._share_again, outer)
        fit = fits.running(self.model)
        if fit is not None:
            fit.ending.enter_context(self._ending)
        outer.path.method = PLAIN
        path.method = dataclasses.replace(
            path.method,
            reduction=OwnGradients(),
            after_step=outer.after_step,
            settle=lambda: synchronize.run_often(
                strategy, "settle", outer.variables, outer.settle
            ),
            outer=outer.path,
        )
        self.model.make_train_function(force=True)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments as plain data."""
        return {
            "sync_every": self.sync_every,
            "outer_optimizer": keras.optimizers.serialize(self.outer_optimizer),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> LocalSGD:
        """Undoes `get_config`."""
        outer = keras.optimizers.deserialize(dict(config["outer_optimizer"]))
        return cls(config["sync_every"], outer)

    def get_state(self) -> dict[str, Any]:
        """Returns what has to be remembered beside each replica's weights.

        Returns:
            "variables" (the common weights that the replicas have started from, and the
            outer optimizer's variables; None before the first `fit`) and the steps
            "since" then. Equal on all processes.
        """
        if self._restored is not None:
            return self._restored
        return _NOTHING if self._outer is None else self._outer.state()

    def set_state(self, states: Sequence[dict[str, Any]]) -> None:
        """Goes on from the states of all processes; call it before `fit`.

        Args:
            states: What `get_state` returned on all processes, in order of rank; the
                same list on every process.
        """
        known = states[0]["variables"] is not None
        self._restored = dict(states[0]) if known else None

    def _outer_steps(self, path: GradientPath) -> OuterSteps:
        weights = self.model.trainable_variables
        # Also what plain training leaves equal, since it only depends on the weights.
        statistics = [
            variable
            for layer in self.model._flatten_layers()
            for variable in keras_names.statistics_of(layer)
        ]
        if self._outer and self._outer.works_for(path, weights, statistics):
            return self._outer
        kind = type(self.outer_optimizer)
        with self.model.distribute_strategy.scope():
            outer = kind.from_config(self.outer_optimizer.get_config())
            return OuterSteps(path, weights, statistics, outer, self.sync_every)

    def _share_again(self, outer: OuterSteps) -> None:
        """Sees to common weights after a `fit` that broke off between two averages."""
        if outer.since:
            self.model.distribute_strategy.share_again(outer.replicated)

    def _refuse_moving_average(self) -> None:
        if keras_names.innermost(self.model.optimizer).use_ema:
            raise ValueError(
                explain(
                    "With LocalSGD every replica would average its own weights",
                    received="an optimizer with use_ema=True",
                    expected="use_ema=False",
                    hint="Leave use_ema out; averaging over replicas smooths, too.",
                )
            )


_NOTHING: dict[str, Any] = {"variables": None, "since": 0}
