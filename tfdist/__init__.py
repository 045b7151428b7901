"""tfdist: Keras 3 on several devices, with the result of one.

strategy = tfdist.strategy("auto")
with strategy.scope():
model = keras.Sequential([...])
model.compile("adam", "mse")
model.fit(dataset)  # batches of the global batch size
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

# The command line starts without TensorFlow and says itself what is missing.
_is_program = Path(sys.argv[0]).stem == "tfdist" or (
    sys.argv[0] == "-m" and "tfdist.launch" in sys.orig_argv
)
if importlib.util.find_spec("tensorflow") is None and not _is_program:
    raise ImportError(
        "tfdist needs TensorFlow, which is not installed.\n"
        "HINT: pip install 'tfdist[cpu]', or 'tfdist[gpu]' on a machine with GPUs."
    )

__version__ = "0.1.0"

# Loaded on first use: `tfdist --help` must not wait for TensorFlow.
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
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"tfdist.{name}")
    raise AttributeError(f"module 'tfdist' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
