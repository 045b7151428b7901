"""The strategies: ways to train one Keras model on several devices."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfdist.errors import explain
from tfdist.strategies.default import default_strategy
from tfdist.strategies.environment import detect, refuse_other
from tfdist.strategies.horovod import HorovodStrategy as HorovodStrategy
from tfdist.strategies.mirrored import MirroredStrategy as MirroredStrategy
from tfdist.strategies.multiworker import (
    MultiWorkerMirroredStrategy as MultiWorkerMirroredStrategy,
)

__all__ = [
    "HorovodStrategy",
    "MirroredStrategy",
    "MultiWorkerMirroredStrategy",
    "strategy",
]

_STRATEGIES: dict[str, Callable[..., tf.distribute.Strategy]] = {
    "default": default_strategy,
    "mirrored": MirroredStrategy,
    "multiworker": MultiWorkerMirroredStrategy,
    "horovod": HorovodStrategy,
}


def strategy(name: str = "auto", **options: Any) -> tf.distribute.Strategy:
    """Creates the strategy `name`, by default the one that the launcher asks for.

    Args:
        name: "auto", "default" (one device), "mirrored" (the devices of this
            machine), "multiworker" (TF_CONFIG) or "horovod" (horovodrun, mpirun,
            Slurm). "auto" reads what the launcher has set: HOROVOD_RANK,
            OMPI_COMM_WORLD_SIZE, PMI_SIZE or srun's step say horovod, TF_CONFIG says
            multiworker, more than one GPU says mirrored, else default.
            `tfdist run` says it outright.
        **options: The class's own, such as `devices=["GPU:0", "GPU:1"]`.

    Returns:
        A `tf.distribute.Strategy`.

    Raises:
        ValueError: The name is unknown, or the environment contradicts itself.
        TypeError: The strategy has no such option.

    Example:
        >>> strategy = tfdist.strategy("auto")
        >>> with strategy.scope():
        ...     model = keras.Sequential([...])
        ...     model.compile("adam", "mse")
        >>> model.fit(dataset)  # batches of the global batch size
    """
    if name == "auto":
        gpus = tf.config.list_physical_devices("GPU")
        name = detect(os.environ, len(gpus))
    if name not in _STRATEGIES:
        raise ValueError(
            explain(
                "There is no such strategy",
                received=f"name={name!r}",
                expected=", ".join(repr(known) for known in ("auto", *_STRATEGIES)),
                hint="tfdist.strategy('auto') chooses by the launcher.",
            )
        )
    known = inspect.signature(_STRATEGIES[name]).parameters
    if unknown := set(options) - set(known):
        raise TypeError(
            explain(
                f"Strategy {name!r} has no such option",
                received=", ".join(sorted(unknown)),
                expected=", ".join(known) or "no options",
                hint=f"help(tfdist.{_STRATEGIES[name].__name__})",
            )
        )
    refuse_other(name, os.environ)
    return _STRATEGIES[name](**options)
