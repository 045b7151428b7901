"""tfdist: Keras 3 on several devices, with the result of one.

Example:
    >>> strategy = tfdist.strategy("auto")
    >>> with strategy.scope():
    ...     model = keras.Sequential([...])
    ...     model.compile("adam", "mse")
    >>> model.fit(dataset)  # batches of the global batch size
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

__version__ = "0.1.0"

# Loaded on first use: `tfdist --help` must not wait for TensorFlow, and pytest loads
# `tfdist.testing` also where it is not installed.
_HOMES = {
    "HorovodStrategy": "tfdist.strategies",
    "MirroredStrategy": "tfdist.strategies",
    "MultiWorkerMirroredStrategy": "tfdist.strategies",
    "strategy": "tfdist.strategies",
    "set_seed": "tfdist.seeding",
    "synchronize_batch_norm": "tfdist.tools",
}
_MODULES = (
    "callbacks",
    "cluster",
    "compression",
    "data",
    "errors",
    "gradients",
    "optimizers",
    "tools",
)

__all__ = [*_HOMES, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(_loaded(_HOMES[name]), name)
    if name in _MODULES:
        return _loaded(f"tfdist.{name}")
    raise AttributeError(f"module 'tfdist' has no attribute {name!r}")


def _loaded(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if importlib.util.find_spec("tensorflow") is not None:
            raise
        raise ImportError(
            "tfdist needs TensorFlow, which is not installed.\n"
            "HINT: pip install 'tfdist[cpu]', or 'tfdist[gpu]' on a machine with GPUs."
        ) from error


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
