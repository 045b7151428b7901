"""The metric by which CheckpointRecovery keeps the best: is there one of that name?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import keras
import tensorflow as tf

from tfdist.checkpoint.retention import Best
from tfdist.errors import explain, nearest
from tfdist.strategies import fits

from .learning_rate_scaling import LearningRateScaling
from .place import Placed

_STEPS = ("train_step", "test_step", "compute_metrics", "get_metrics_result")


class BestMetric:
    """Tells of a name that no epoch's logs have, as early as that can be known.

    Before the first step, where the logs hold the model's own metrics alone. A step or
    a callback of the user's may add others; then the first epoch whose logs should have
    it shows it. Training goes on: it is not worth less for a checkpoint that is not
    kept, and the metric may come later.

    Args:
        best: The metric; None if none is kept by.
        call: The call of `fit`.
        callbacks: All its callbacks.
    """

    def __init__(
        self, best: Best | None, call: fits.Call, callbacks: Iterable[Any]
    ) -> None:
        self._best = best
        self._model = call.model
        self._callbacks = list(callbacks)
        arguments = call.arguments
        self._validates = (
            arguments.get("validation_data") is not None
            or float(arguments.get("validation_split") or 0.0) > 0
        )
        self._is_told = False

    def refuse_unknown(self) -> None:
        """Looks for the metric before the first step; the model is built.

        Raises:
            ValueError: It is known that there will be none.
        """
        if self._best is None:
            return
        known = self._known()
        if known is None or self._best.metric in known:
            return
        raise ValueError(
            explain(
                "No metric of this fit has the name of keep_best",
                received=repr(self._best.metric),
                expected=", ".join(known),
                hint=self._hint(known),
            )
        )

    def missing_in(self, logs: Mapping[str, Any] | None) -> str | None:
        """Returns a sentence with a hint, once, if an epoch's logs lack the metric."""
        logs = dict(logs or {})
        if self._best is None or self._is_told or self._best.metric in logs:
            return None
        validated = any(name.startswith("val_") for name in logs)
        if self._best.metric.startswith("val_") and self._validates and not validated:
            return None  # not every epoch is validated
        self._is_told = True
        return (
            f"the logs have no {self._best.metric!r}, but {', '.join(logs)}. "
            f"HINT: {self._hint(logs)}"
        )

    def _known(self) -> list[str] | None:
        """Returns all names that the logs can have; None if that is not known."""
        own = all(
            getattr(type(self._model), name) is getattr(keras.Model, name)
            for name in _STEPS
        )
        if not own or any(map(_may_add, self._callbacks)):
            return None
        try:
            names = list(dict.fromkeys(["loss", *_results(self._model)]))
        except Exception:  # a metric of the user's may have no result before a batch
            return None
        if self._validates:
            names += [f"val_{name}" for name in names]
        return [*names, "learning_rate"]  # Keras's and tfdist's callbacks log it

    def _hint(self, known: Iterable[str]) -> str:
        if self._best is None:
            return ""
        name, mode = self._best.metric, self._best.mode
        if name.startswith("val_") and not self._validates:
            return "Give fit validation_data, or keep the best by another metric."
        meant = nearest(name, known)
        if meant is None:
            return "keep_best takes one of these names."
        return f"keep_best=({meant!r}, {mode!r})"


def _results(model: keras.Model) -> list[str]:
    """Returns the names of a model's metrics; traced only: nothing is communicated."""
    with model.distribute_strategy.scope():
        program = tf.function(model.get_metrics_result, autograph=False)
        return list(program.get_concrete_function().structured_outputs)


def _may_add(callback: Any) -> bool:
    """Returns whether a callback may add to an epoch's logs what is not known here."""
    if type(callback).__module__.partition(".")[0] not in ("keras", "tfdist"):
        return True
    if isinstance(callback, Placed):
        adds = "CSVLogger" in callback.precedes
        return adds and not isinstance(callback, LearningRateScaling)
    return isinstance(callback, keras.callbacks.LambdaCallback)
