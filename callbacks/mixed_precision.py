"""16-bit arithmetic without silent breakage."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, ClassVar

import keras

from tfdist import cluster
from tfdist.errors import explain
from tfdist.strategies import fits
from tfdist.strategies.training import KerasTraining

from . import layer_policies
from .arguments import checked_integer, checked_number, require_own_strategy
from .batches_made import batches_made
from .emulation import say_if_emulated
from .loss_scale import Advice, Scale, Skipped, refuse_double, scaled_losses, wrapped
from .place import Placed, adds_to_logs
from .precision_plan import refuse_unreachable, stage_at, stages_of, written

_logger = logging.getLogger("tfdist")
_LARGEST = 2.0**127  # power of two in float32, which holds the scale
_LONGEST = 2**31 - 2  # steps: the counter has 32 bits
_RESTORES = "What restores an optimizer has to meet the one that trains"

Policies = list[tuple[Any, keras.DTypePolicy]]


class MixedPrecision(Placed):
    """Computes in 16 bits, keeps the weights in 32, and scales the loss for float16.

    Use it where 16 bits are faster, which is on GPUs and TPUs and on processors with
    AMX or AVX512-BF16. It may be given to a model that was built and compiled in
    float32: layers get their policies before the first step is traced. Under a global
    policy (`keras.config.set_dtype_policy`) it keeps in float32 what has to be, and
    leaves layers alone that were built with `dtype="float32"`.

    float16 has 11 bits but ends at 65504, and small gradients vanish in it. The
    loss is multiplied by a scale and the gradients are divided by it, exactly once,
    whether `compile` has wrapped the optimizer or not. A step that overflows on one
    replica is skipped by all, and halves the scale. bfloat16 has 8 bits and the range
    of float32, and needs no scale.

    The policies stay with the model when `fit` ends: `evaluate`, `predict` and saved
    models compute as training did, and load where tfdist is not installed.
    `MixedPrecision("float32")` takes them back. Put it first in the list, so that
    callbacks which restore an optimizer meet the one that trains. One process may skip
    a float16 step that several replicas make: it sums more examples in 16 bits.

    Args:
        policy: "mixed_float16", "mixed_bfloat16", "float32" (also as objects); a
            `keras.dtype_policies.DTypePolicyMap` from layers' paths to them, which
            may name what stays float32 otherwise; or a list of (policy, start): each
            is in force from that part of the training on, with one retrace.
        keep_float32: Layers that stay float32, by name or path. "auto" stands for
            the output layers, softmax, and normalisations whose statistics would
            not be computed in float32; it may be one in a list. []: none. Losses and
            metrics are float32 in any case. What a subclassed model does last has
            to be named.
        loss_scale: For float16: "dynamic", or a fixed number.
        initial_scale: The first dynamic scale.
        growth_steps: Finite steps after which a dynamic scale doubles. A
            LossScaleOptimizer that is there already keeps its own two numbers.

    Logs:
        With float16, `loss_scale` (of the next step) and `skipped_steps` (of the
        epoch), equal on all ranks.

    Raises:
        ValueError: An unknown policy, layer or loss scale; a layer that refuses its
            policy; an optimizer with two loss scales; a `train_step` of the user's
            own that does not call `optimizer.scale_loss`; a wrong place in the list.
        TfdistError: The ranks were given different arguments or layers.

    References:
        Micikevicius et al., Mixed precision training, ICLR 2018.

    Example:
        >>> precision = tfdist.callbacks.MixedPrecision("mixed_bfloat16")
        >>> model.fit(dataset, epochs=10, callbacks=[precision])
    """

    precedes: ClassVar = {
        "BackupAndRestore": _RESTORES,
        **adds_to_logs("MixedPrecision"),
    }
    instead_of_two: ClassVar = (
        "Leave one of them out; several policies, one after the other, are one list "
        "of (policy, start)."
    )

    def __init__(
        self,
        policy: Any,
        keep_float32: str | Sequence[str] = "auto",
        loss_scale: str | float = "dynamic",
        *,
        initial_scale: float = 2.0**15,
        growth_steps: int = 2000,
    ) -> None:
        super().__init__()
        self.stages = stages_of(policy)
        self.keep_float32 = _checked_names(keep_float32)
        self.loss_scale = loss_scale
        if loss_scale != "dynamic":
            self.loss_scale = checked_number(
                "loss_scale", loss_scale, least=1, most=_LARGEST, otherwise='"dynamic"'
            )
        self.initial_scale = checked_number(
            "initial_scale", initial_scale, least=1, most=_LARGEST
        )
        self.growth_steps = checked_integer(
            "growth_steps", growth_steps, least=1, most=_LONGEST
        )
        self._policies: list[Policies] = []  # of each stage
        self._stage = -1
        self._epoch = 0
        self._scale: Scale | None = None
        self._skipped = Skipped()
        self._advice = Advice()
        self._restored: dict[str, Any] | None = None
        fits.install()

    def on_train_begin(self, logs: Any = None) -> None:
        """Checks everything, and puts the loss scale around the optimizer."""
        strategy = self.model.distribute_strategy
        if strategy.num_replicas_in_sync > 1:
            require_own_strategy("MixedPrecision", strategy)
        self._policies = [
            layer_policies.policies_of(self.model, stage.policy, self.keep_float32)
            for stage in self.stages
        ]
        halves = layer_policies.half_types(sum(self._policies, []))
        self._refuse_wrong_optimizer(halves)
        refuse_unreachable(self.stages, self.params)
        if isinstance(strategy, KerasTraining):
            strategy.agree("mixed precision", self._details())
        self._say_what_is_unknown(halves)
        say_if_emulated(halves)
        self._scale = None
        if "float16" in halves:
            with strategy.scope():
                scaler = wrapped(
                    self.model,
                    initial_scale=self.initial_scale,
                    growth_steps=self.growth_steps,
                )
            self._scale = Scale(scaler, growth_steps=self.growth_steps)
            fit = fits.running(self.model)
            if fit is not None:
                fit.ending.enter_context(scaled_losses(scaler))
        self._stage = -1  # layers change when every callback has had its say

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Starts to count, and the stage that begins here."""
        self._epoch = epoch
        self._skipped.begin_epoch(self.model.optimizer)
        if not self._go_on():
            self._enter(epoch, 0)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Starts the next stage when it is time."""
        self._enter(self._epoch, batch)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Counts the steps."""
        self._skipped.made(batches_made(self, batch))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Logs the scale and what was skipped, and warns if that is too much."""
        if self._scale is None:
            self._skipped.made(0)
            return
        skipped, steps = self._skipped.end_epoch(self.model.optimizer)
        scale = self._scale.value
        if logs is not None:
            logs.update(loss_scale=scale, skipped_steps=skipped)
        self._advice.consider(skipped, steps, scale, held=self._holds())

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments as plain data."""
        return {
            "policy": written(self.stages),
            "keep_float32": self.keep_float32,
            "loss_scale": self.loss_scale,
            "initial_scale": self.initial_scale,
            "growth_steps": self.growth_steps,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> MixedPrecision:
        """Undoes `get_config`."""
        return cls(**config)

    def get_state(self) -> dict[str, Any]:
        """Returns what this process has to remember; equal on all of them.

        Returns:
            "loss_scale" and "counter" (steps since it changed; both None without
            float16), which are also in the optimizer's variables, "skipped_steps" of
            all epochs before, "stage" (in force; -1 before the first), and "epoch" (how
            far that is).
        """
        if self._restored is not None:
            return self._restored
        scale = self._scale
        return {
            "loss_scale": None if scale is None else scale.value,
            "counter": None if scale is None else scale.counter,
            "skipped_steps": self._skipped.total,
            "stage": self._stage,
            "epoch": self._skipped.state,
        }

    def set_state(self, states: Sequence[dict[str, Any]]) -> None:
        """Goes on from the states of all processes; call it before `fit`.

        Args:
            states: What `get_state` returned on all processes, in order of rank; the
                same list on every process.
        """
        self._restored = dict(states[0])
        self._skipped = Skipped(self._restored["skipped_steps"])

    def _enter(self, epoch: int, step: int) -> None:
        """Puts the stage of a step into force; the next step is traced anew."""
        self._enter_stage(stage_at(self.stages, epoch, step, self.params))

    def _enter_stage(self, stage: int) -> None:
        if stage == self._stage:
            return
        self._stage = stage
        changed = layer_policies.assign(self._policies[stage])
        if self._scale is not None:
            if not layer_policies.half_types(self._policies[stage]) & {"float16"}:
                self._scale.hold(1.0)
            elif self.loss_scale != "dynamic":
                self._scale.hold(float(self.loss_scale))
            else:
                self._scale.release()
        if changed or self._scale is not None:
            self.model.make_train_function(force=True)
            # Made again, with the new policies, when they are needed.
            self.model.test_function = self.model.predict_function = None

    def _go_on(self) -> bool:
        """Returns whether this epoch had begun before: it then goes on in its stage."""
        restored, self._restored = self._restored, None
        if restored is None:
            return False
        if 0 <= restored["stage"] < len(self.stages):
            self._enter_stage(restored["stage"])
            value = restored["loss_scale"]
            if value is not None and self._scale is not None and not self._holds():
                self._scale.assign(value, restored["counter"])
        begun: bool = restored["epoch"][1] > 0
        if begun:
            self._skipped.resume_epoch(restored["epoch"])
        return begun

    def _holds(self) -> bool:
        half = layer_policies.half_types(self._policies[self._stage])
        return self.loss_scale != "dynamic" or "float16" not in half

    def _details(self) -> dict[str, Any]:
        """Returns what ranks have to agree on; names of layers may differ."""
        details = {
            "loss_scale": str(self.loss_scale),
            "initial_scale": str(self.initial_scale),
            "growth_steps": str(self.growth_steps),
            "starts": str([stage.start for stage in self.stages]),
        }
        for number, policies in enumerate(self._policies):
            details[f"stage {number}"] = layer_policies.summary(policies)
        return details

    def _refuse_wrong_optimizer(self, halves: set[str]) -> None:
        optimizer = getattr(self.model, "optimizer", None)
        if optimizer is None:
            raise ValueError(
                explain(
                    "MixedPrecision needs a model that is compiled",
                    received="model.optimizer = None",
                    expected="an optimizer",
                    hint='Pass one to model.compile(optimizer="sgd", ...).',
                )
            )
        scaling = "float16" in halves
        if self.loss_scale != "dynamic" and not scaling:
            raise ValueError(
                explain(
                    "Only float16 has a loss scale",
                    received=f"loss_scale={self.loss_scale:g}, and no float16 layer",
                    expected='policy="mixed_float16", or no loss_scale',
                    hint="Leave loss_scale out.",
                )
            )
        refuse_double(optimizer, scaling=scaling)
        if scaling and not self.model.weights:  # strategies have built it by now
            raise ValueError(
                explain(
                    "float16 needs a model that is built: its optimizer holds the "
                    "loss scale",
                    received=f"{type(self.model).__name__} without weights",
                    expected="a model that knows the shape of its inputs",
                    hint="Call the model on one batch before fit: model(inputs).",
                )
            )

    def _say_what_is_unknown(self, halves: set[str]) -> None:
        automatic = self.keep_float32 == "auto"  # in a list, the user has thought of it
        unknown = layer_policies.output_layers(self.model) is None
        if halves and automatic and unknown and cluster.is_chief():
            _logger.warning(
                "MixedPrecision cannot see which layer of %s computes the output, "
                "which should stay float32. HINT: Name it: "
                'keep_float32=["auto", "dense_1"]; or [...] without "auto".',
                type(self.model).__name__,
            )


def _checked_names(names: Any) -> str | list[str]:
    if names == "auto":
        return "auto"
    listed = isinstance(names, list | tuple)
    if listed and all(isinstance(name, str) for name in names):
        return list(names)
    raise ValueError(
        explain(
            "Wrong keep_float32",
            received=repr(names),
            expected='"auto", or a list of names or paths of layers',
            hint=f"keep_float32=['auto', {names!r}]"
            if isinstance(names, str)
            else 'Leave keep_float32="auto".',
        )
    )
