"""Would more ranks help? The gradient noise scale."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any, ClassVar, cast

import keras

from tfdist import cluster
from tfdist.errors import explain
from tfdist.gradients.attach import GradientPath, attach, path_of
from tfdist.gradients.noise import NoiseMeasured

from .arguments import require_own_strategy
from .place import Placed, adds_to_logs

_logger = logging.getLogger("tfdist")
_ONE_OF_THEM = "one of them: the noise is measured in plain sums"


class GradientNoiseScale(Placed):
    """Estimates the batch size above which larger batches hardly help any more.

    The replicas' own gradients differ from their sum by noise, and by how much tells
    the noise scale tr(S) / |G|^2, in examples: about where twice the batch begins to
    save less than it costs. With batches of B examples and the noise scale C, training
    takes 1 + C / B times the fewest possible steps, and 1 + B / C times the fewest
    possible examples. At the end of training it says what twice as many ranks with
    the same batch each would change.

    Nothing about training changes. Three numbers more travel in each update. It needs
    two replicas or more, and plain sums of gradients: it excludes GradientCompression
    and LocalSGD. With `gradient_accumulation_steps`, the whole update counts
    as the batch.

    Args:
        decay: Of the moving averages over the updates.

    Raises:
        ValueError: `decay` is not between 0 and 1; a strategy that is not tfdist's;
            a wrong place in the list, or a GradientCompression or LocalSGD in it.
        TfdistError: The ranks were given different arguments.

    References:
        McCandlish, Kaplan, Amodei, An empirical model of large-batch training,
        arXiv:1812.06162, 2018.

    Example:
        >>> noise = tfdist.callbacks.GradientNoiseScale()
        >>> history = model.fit(dataset, epochs=5, callbacks=[noise])
        >>> history.history["gradient_noise_scale"]
    """

    precedes: ClassVar = adds_to_logs("GradientNoiseScale")
    excludes: ClassVar = {
        "GradientCompression": _ONE_OF_THEM,
        "LocalSGD": _ONE_OF_THEM,
    }

    def __init__(self, decay: float = 0.99) -> None:
        super().__init__()
        if isinstance(decay, bool) or not (
            isinstance(decay, int | float) and 0 <= decay < 1
        ):
            raise ValueError(
                explain(
                    "Wrong decay of the gradient noise scale",
                    received=repr(decay),
                    expected="a number from 0 to below 1",
                    hint="Leave decay=0.99: the mean of about 100 updates.",
                )
            )
        self.decay = float(decay)
        self._trained: keras.Model | None = None
        self._path: GradientPath | None = None
        self._measured: NoiseMeasured | None = None
        self._restored: list[float] | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Lets the training step measure."""
        strategy = self.model.distribute_strategy
        self._path = None
        if strategy.num_replicas_in_sync == 1:
            _logger.warning(
                "GradientNoiseScale compares the gradients of replicas, and there is "
                "one. HINT: tfdist run -np 2 ..."
            )
            return
        require_own_strategy("GradientNoiseScale", strategy)
        strategy.agree("gradient noise scale", {"decay": str(self.decay)})
        with strategy.scope():
            attach(self.model.optimizer, self.model)
        path = cast(GradientPath, path_of(self.model.optimizer))
        if self._trained not in (None, self.model):
            self._measured = self._restored = None  # they are another model's
        self._trained = self.model
        before = self.get_state()["averages"]
        self._measured = NoiseMeasured(
            path.method.reduction,
            strategy,
            decay=self.decay,
            steps=path.steps_per_update,
        )
        if before is not None:
            self._measured.averages = before
        self._path = path
        path.method = dataclasses.replace(path.method, reduction=self._measured)
        self.model.make_train_function(force=True)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Logs the noise scale; not a number where no gradient stands out of it."""
        if self._path is not None and logs is not None:
            logs["gradient_noise_scale"] = self._scale()

    def on_train_end(self, logs: Any = None) -> None:
        """Says what more ranks would change."""
        if not cluster.is_chief() or self._path is None:
            return
        _, _, batch, weight = cast(NoiseMeasured, self._measured).averages
        if weight:
            _logger.warning(advice(self._scale(), batch / weight))

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments as plain data."""
        return {"decay": self.decay}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> GradientNoiseScale:
        """Undoes `get_config`."""
        return cls(**config)

    def get_state(self) -> dict[str, Any]:
        """Returns "averages": a list of four numbers, None before the first `fit`."""
        measured = self._measured
        return {"averages": self._restored if measured is None else measured.averages}

    def set_state(self, states: Sequence[dict[str, Any]]) -> None:
        """Goes on from the states of all processes; call it before `fit`.

        Args:
            states: What `get_state` returned on all processes, in order of rank; the
                same list on every process.
        """
        self._restored, self._measured = states[0]["averages"], None
        self._trained = None

    def _scale(self) -> float:
        signal, noise, _, _ = cast(NoiseMeasured, self._measured).averages
        return noise / signal if signal > 0 else float("nan")


def advice(scale: float, batch: float) -> str:
    """Words what twice the batch would change.

    Args:
        scale: The noise scale in examples; NaN if it is not known.
        batch: The examples of an update.
    """
    if not scale > 0:
        return (
            "GradientNoiseScale: no gradient stands out of the noise, whose scale is "
            "not known. HINT: Train longer, or pass a decay nearer to 1."
        )
    steps = (1 + scale / (2 * batch)) / (1 + scale / batch)
    examples = (2 * batch + scale) / (batch + scale)
    verdict = "would help" if scale > batch else "would hardly help"
    return (
        f"GradientNoiseScale: about {scale:.3g} examples, with batches of {batch:.3g}. "
        f"Twice as many ranks {verdict}: about {steps:.0%} of the steps, "
        f"{examples:.0%} of the examples."
    )
