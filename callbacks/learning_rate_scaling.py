"""The learning rate for a large batch: scaled and warmed up."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from typing import Any, ClassVar

import keras

from tfdist import cluster
from tfdist.errors import explain
from tfdist.gradients import keras_names
from tfdist.strategies import arguments, fits
from tfdist.strategies.training import KerasTraining

from .arguments import checked_integer, checked_number, checked_size
from .place import Placed, adds_to_logs
from .rate_after import Lengths, after_of
from .rate_plan import (
    RatePlan,
    Rule,
    checked_rule,
    first_factor,
    full_factor,
    lengths_of,
)
from .scaled_rate import ScaledRate, read_rate, steps_made

_logger = logging.getLogger("tfdist")
_SETS_RATE = "What sets the learning rate has to meet the scaled one"


class LearningRateScaling(Placed):
    """Scales the learning rate with the global batch, and warms it up step by step.

    More ranks with the same batch each make a larger global batch, whose gradient is
    less noisy and deserves longer steps. With the rate b that was tuned for batches
    of `reference_batch_size`, and k = global batch / reference batch, step s of a
    warm-up of W steps is made with the rate

        b + (scaled - b) s / W;  scaled = b k ("linear") or b sqrt(k) ("sqrt")

    and later ones with the scaled rate, which falls as `after` says. The plan depends
    on the global batch and on the optimizer's iterations, never on the number of
    ranks: training that is resumed goes on where it was, also on other ranks. Steps
    are batches, also with `gradient_accumulation_steps`.

    A schedule in the optimizer is multiplied, not replaced. Callbacks that set the
    rate, such as ReduceLROnPlateau, come after this one; what they set is the rate of
    the next step, and the plan goes on in proportion. So does GradientCompression,
    which begins where the warm-up ends. The rate is computed in the
    graph, anew in each step of an execution. The optimizer gets its own rate back
    when `fit` ends, and files written meanwhile hold that rate.

    Args:
        rule: "linear" (for SGD), "sqrt" (for Adam and its relatives), "none", or a
            function of the base rate and the ratio, which is asked once.
        reference_batch_size: The global batch that the optimizer's rate is tuned for.
            Omitted: nothing is scaled, only warmed up.
        warmup_epochs: Length of the warm-up; 0 for none.
        warmup_steps: The same in steps, instead of epochs.
        initial: The rate of the first step. "auto": the unscaled rate; where scaling
            does not raise it, the scaled rate / W.
        momentum_correction: For SGD with momentum, multiplies the velocity by the
            same factor as the rate whenever that changes. Other optimizers keep the
            rate out of their moments and need none.
        after: "constant", "cosine", "step" or "polynomial".
        batch_size: The global batch size, for data that does not tell it (generators,
            `PyDataset`, datasets whose last stage is not `batch`).
        **parameters: Of `after`, counted from the start of training. For "cosine" and
            "polynomial": `epochs` or `steps` at the end of the fall (default: the end
            of training), `final` (the part that is left, 0) and `power` (1). For
            "step": a list of `epochs` or `steps`, and `factor` (0.1).

    Raises:
        ValueError: Unknown rule, `after` or parameter; a negative rate; a batch size
            or an epoch's length that is needed and not known; a warm-up longer than
            the training; a wrong place in the list; a model without an optimizer.
        TfdistError: The ranks were given different plans.

    References:
        Goyal et al., Accurate, large minibatch SGD: training ImageNet in 1 hour,
        arXiv:1706.02677, 2017 (momentum correction: section 2.1).

    Example:
        >>> scaling = tfdist.callbacks.LearningRateScaling(reference_batch_size=256)
        >>> model.fit(dataset, epochs=90, callbacks=[scaling])
    """

    precedes: ClassVar = {
        "ReduceLROnPlateau": _SETS_RATE,
        "LearningRateScheduler": _SETS_RATE,
        "GradientCompression": "GradientCompression begins where the warm-up ends, "
        "and has to see it",
        **adds_to_logs("LearningRateScaling"),
    }

    def __init__(
        self,
        rule: str | Rule = "linear",
        reference_batch_size: int | None = None,
        warmup_epochs: float = 5,
        warmup_steps: int | None = None,
        initial: float | str = "auto",
        momentum_correction: bool = True,
        after: str | None = None,
        *,
        batch_size: int | None = None,
        **parameters: Any,
    ) -> None:
        super().__init__()
        self.rule = checked_rule(rule)
        self.reference_batch_size = checked_size(
            "reference_batch_size", reference_batch_size
        )
        self.warmup_epochs = checked_number("warmup_epochs", warmup_epochs)
        self.warmup_steps = warmup_steps
        if warmup_steps is not None:
            checked_integer("warmup_steps", warmup_steps)
        self.initial = initial
        if initial != "auto":
            checked_number("initial", initial)
        self.momentum_correction = momentum_correction
        self.after = after
        self.batch_size = checked_size("batch_size", batch_size)
        self._after = after_of("constant" if after is None else after, parameters)
        self._scaled: Any = None  # the optimizer
        self._base_rate: float | None = None  # at the very first step
        self._made = 0  # steps before this fit
        self._resumed = False
        self._ending = contextlib.ExitStack()
        self._has_said = False
        fits.install()

    def on_train_begin(self, logs: Any = None) -> None:
        """Checks everything, and puts the plan in force before the first step."""
        self._ending.close()  # of a loop without `fit` that was broken off
        optimizer = self._optimizer()
        if self._scaled not in (None, optimizer):
            self._base_rate = None  # another optimizer's
        self._scaled = optimizer
        fit = fits.running(self.model)
        ratio = self._ratio(fit)
        if not self._resumed:
            self._made = steps_made(optimizer)
        self._resumed, made = False, self._made
        lengths = lengths_of(self.warmup_epochs, self.warmup_steps, self.params, made)
        plan = self._plan(optimizer, ratio, lengths)
        strategy = self.model.distribute_strategy
        if isinstance(strategy, KerasTraining):
            strategy.agree("learning rate scaling", self._details(plan, lengths))
        if fit is not None:
            fit.ending.enter_context(self._ending)
        self._say(lengths, made)
        rate = ScaledRate(optimizer, plan, momentum_correction=self.momentum_correction)
        self._ending.enter_context(rate.in_force())
        self.model.make_train_function(force=True)
        # What is traced from now on must not outlive the plan.
        self._ending.callback(setattr, self.model, "train_function", None)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Logs the rate of the next step, as Keras's own callbacks do."""
        if logs is not None:
            logs["learning_rate"] = float(self.model.optimizer.learning_rate)

    def on_train_end(self, logs: Any = None) -> None:
        """Gives the optimizer its own rate back."""
        self._ending.close()

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments as plain data.

        Raises:
            ValueError: The rule is a function that Keras cannot find by name.
        """
        return {
            "rule": self._serialized_rule(),
            "reference_batch_size": self.reference_batch_size,
            "warmup_epochs": self.warmup_epochs,
            "warmup_steps": self.warmup_steps,
            "initial": self.initial,
            "momentum_correction": self.momentum_correction,
            "after": self.after,
            "batch_size": self.batch_size,
            **self._after.parameters(),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> LearningRateScaling:
        """Undoes `get_config`."""
        rule = config["rule"]
        if isinstance(rule, dict):
            rule = keras.saving.get_registered_object(rule["registered_name"])
        return cls(**{**config, "rule": rule})

    def get_state(self) -> dict[str, Any]:
        """Returns what has to be remembered beside the optimizer's variables.

        Returns:
            "base_rate" (float; None before the first `fit`): what a rule that is a
            function, and `initial`, refer to, whatever the rate is set to later; and
            the steps "made" before this `fit`.
        """
        return {"base_rate": self._base_rate, "made": self._made}

    def set_state(self, states: Sequence[dict[str, Any]]) -> None:
        """Goes on from the states of all processes; call it before `fit`.

        Args:
            states: What `get_state` returned on all processes, in order of rank; the
                same list on every process.
        """
        self._base_rate, self._made = states[0]["base_rate"], states[0]["made"]
        self._scaled, self._resumed = None, True

    def _optimizer(self) -> Any:
        """Returns the optimizer whose rate is to be scaled, or says what is wrong."""
        given = getattr(self.model, "optimizer", None)
        if given is None or hasattr(given, "optimizers"):
            raise ValueError(
                explain(
                    "LearningRateScaling needs one optimizer with a learning rate",
                    received=f"model.optimizer = {given!r}",
                    expected="an optimizer, also inside a LossScaleOptimizer",
                    hint='Pass one to model.compile(optimizer="sgd", ...).',
                )
            )
        optimizer = keras_names.innermost(given)
        keras_names.require(optimizer, keras_names.RATE)
        return optimizer

    def _ratio(self, fit: fits.Call | None) -> float:
        if self.reference_batch_size is None:
            return 1.0
        size = self.batch_size
        if size is None and fit is not None:
            size = arguments.global_batch_size(fit.arguments)
        if size is None:
            raise ValueError(
                explain(
                    "The global batch size is not known, on which the learning rate "
                    "depends",
                    received="data that does not tell it"
                    if fit is None
                    else type(fit.arguments.get("x")).__name__,
                    expected="arrays with fit's batch_size, or a dataset that ends in "
                    ".batch(size), has drop_remainder=True or is of tfdist.data",
                    hint="Say it: LearningRateScaling(..., batch_size=256), or "
                    "defaults(..., batch_size=256).",
                )
            )
        return size / self.reference_batch_size

    def _plan(self, optimizer: Any, ratio: float, lengths: Lengths) -> RatePlan:
        if self._base_rate is None:
            self._base_rate = read_rate(optimizer)
        base = self._base_rate
        if base < 0 or (base == 0 and self.initial != "auto"):
            raise ValueError(
                explain(
                    "There is nothing to scale",
                    received=f"an optimizer whose learning rate is {base:g}",
                    expected="a positive rate",
                    hint="Pass a learning_rate to the optimizer.",
                )
            )
        scheduled = not isinstance(keras_names.rate_of(optimizer), keras.Variable)
        if scheduled and self.after not in (None, "constant"):
            raise ValueError(
                explain(
                    "The learning rate would fall twice",
                    received=f"after={self.after!r}, and an optimizer with a schedule",
                    expected="one of them",
                    hint="Leave after out: the schedule is scaled and warmed up. Or "
                    "give the optimizer a number as its learning_rate.",
                )
            )
        full = full_factor(self.rule, ratio, base)
        first = first_factor(self.initial, full, lengths.warmup, base)
        return RatePlan(first, full, lengths.warmup, self._after.over(lengths))

    def _details(self, plan: RatePlan, lengths: Lengths) -> dict[str, Any]:
        return {
            "factor": f"{plan.first!r} to {plan.full!r}",
            "lengths": str(lengths),
            "after": f"{self.after} {self._after.parameters()}",
            "momentum_correction": str(self.momentum_correction),
        }

    def _say(self, lengths: Lengths, made: int) -> None:
        """Tells the user, once, what may not be meant so."""
        if self._has_said or not cluster.is_chief():
            return
        self._has_said = True
        if self.reference_batch_size is None and self.rule != "none":
            _logger.warning(
                "LearningRateScaling only warms the learning rate up: it was not told "
                "for which batch the rate is tuned. HINT: Pass "
                "reference_batch_size=..., or rule='none'."
            )
        if self.after and lengths.total is not None and made >= lengths.total:
            _logger.warning(
                "LearningRateScaling counts the optimizer's iterations, and %d steps "
                "of %d are made: the rate stays as it is at the end. HINT: Compile the "
                "model again to start anew.",
                made,
                lengths.total,
            )

    def _serialized_rule(self) -> Any:
        if not callable(self.rule):
            return self.rule
        name = keras.saving.get_registered_name(self.rule)
        if keras.saving.get_registered_object(name) is not self.rule:
            raise ValueError(
                explain(
                    "The rule cannot be written down",
                    received=repr(self.rule),
                    expected="a registered function",
                    hint="@keras.saving.register_keras_serializable() before its def.",
                )
            )
        return {"registered_name": name}
