"""The callbacks that most trainings want, in the right order."""

from __future__ import annotations

import functools
import inspect
import logging
import os

import keras

from tfdist import cluster

from .checkpoint_recovery import CheckpointRecovery
from .learning_rate_scaling import LearningRateScaling
from .rate_plan import Rule
from .replica_consistency import ReplicaConsistency
from .telemetry import Telemetry

_logger = logging.getLogger("tfdist")


def defaults(
    directory: str | os.PathLike[str] | None = None,
    *,
    log_dir: str | os.PathLike[str] | None = None,
    reference_batch_size: int | None = None,
    batch_size: int | None = None,
    rule: str | Rule = "linear",
    warmup_epochs: float = 5,
    every: int = 100,
    action: str = "raise",
) -> list[keras.callbacks.Callback]:
    """Returns new callbacks for one model; the chief logs once which they are.

    Others may follow them, such as GradientCompression, EarlyStopping and
    ModelCheckpoint. To change more than the arguments here, write the list yourself.

    Args:
        directory: Of CheckpointRecovery; without one, nothing is saved.
        log_dir: Of Telemetry; without one, it writes no files.
        reference_batch_size: The global batch that the optimizer's rate is tuned for;
            see LearningRateScaling.
        batch_size: Of LearningRateScaling, for data that does not tell it.
        rule: Of LearningRateScaling.
        warmup_epochs: Of LearningRateScaling; 0 for trainings of a few epochs.
        every: Steps between two comparisons of the replicas, and between two rows of
            Telemetry's files.
        action: Of ReplicaConsistency, when replicas differ.

    Raises:
        ValueError: One of the callbacks refuses its arguments.

    Example:
        >>> callbacks = tfdist.callbacks.defaults("runs/digits", log_dir="runs/logs")
        >>> stop = keras.callbacks.EarlyStopping(patience=3)
        >>> model.fit(dataset, epochs=90, callbacks=[*callbacks, stop])
    """
    callbacks: list[keras.callbacks.Callback] = [
        LearningRateScaling(
            rule, reference_batch_size, warmup_epochs, batch_size=batch_size
        ),
        ReplicaConsistency(every, action),
        Telemetry(log_dir, every),
    ]
    if directory is not None:
        callbacks.append(CheckpointRecovery(directory))
    if cluster.is_chief():
        _say(", ".join(map(_described, callbacks)))
    return callbacks


def _described(callback: keras.callbacks.Callback) -> str:
    """Returns a callback as a user would write it, without what is left as it is.

    Not by `get_config`, which refuses a rule that has no registered name.
    """
    kind = type(callback)
    arguments = []
    for name, parameter in inspect.signature(kind).parameters.items():
        value = getattr(callback, name, parameter.default)
        if value not in (parameter.default, []):
            arguments.append(f"{name}={getattr(value, '__name__', repr(value))}")
    return f"{kind.__name__}({', '.join(arguments)})"


@functools.cache
def _say(callbacks: str) -> None:
    _logger.warning("tfdist.callbacks.defaults: %s", callbacks)
