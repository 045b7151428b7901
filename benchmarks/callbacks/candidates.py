"""The callbacks that are measured: one line for each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

import tfdist

NONE = "no callback"
# Does nothing: what the benchmark measures of it is how far it can be believed.
CONTROL = "no callback, again"

# Each makes a callback as users would; the folder is its own, and empty.
CANDIDATES: dict[str, Callable[[Path], Any]] = {
    CONTROL: lambda folder: keras.callbacks.Callback(),
    "mixed_float16": lambda folder: tfdist.callbacks.MixedPrecision("mixed_float16"),
    "mixed_bfloat16": lambda folder: tfdist.callbacks.MixedPrecision("mixed_bfloat16"),
    "GradientNoiseScale": lambda folder: tfdist.callbacks.GradientNoiseScale(),
    "Telemetry": lambda folder: tfdist.callbacks.Telemetry(folder),
    "ReplicaConsistency": lambda folder: tfdist.callbacks.ReplicaConsistency(),
}
