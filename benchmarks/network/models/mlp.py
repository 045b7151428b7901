"""Twelve dense layers of 1024: 12.6 million parameters for little arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.network.models import Task

TASK = Task(batch=48, learning_rate=0.01, loss=0.5, steps=60, classes=10)
WIDTH, LAYERS = 1024, 12


def build() -> Any:
    """Returns the model."""
    import keras

    hidden = [
        keras.layers.Dense(WIDTH, "relu", kernel_initializer="he_normal")
        for _ in range(LAYERS - 1)
    ]
    return keras.Sequential(
        [keras.Input([WIDTH]), *hidden, keras.layers.Dense(WIDTH)], name="mlp"
    )


def inputs(labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Returns vectors around one centre for each class."""
    centres = random.normal(size=(TASK.classes, WIDTH))
    noise = random.normal(size=(len(labels), WIDTH))
    return (0.5 * centres[labels] + noise).astype("float32")
