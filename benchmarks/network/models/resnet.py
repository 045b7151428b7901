"""ResNet-18 for images of 32x32: 11.2 million parameters, much arithmetic.

Source: He, Zhang, Ren, Sun, Deep residual learning for image recognition, CVPR 2016;
its first layers as in that paper's section 4.2, for small images.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.network.models import Task

TASK = Task(batch=4, learning_rate=0.01, loss=0.7, steps=40, classes=10)
STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))  # filters, stride of the first block
BLOCKS = 2


def build() -> Any:
    """Returns the model."""
    import keras

    image = keras.Input([32, 32, 3])
    x = _normalised(image, 64, 3, 1)
    x = keras.layers.ReLU()(x)
    for filters, stride in STAGES:
        for block in range(BLOCKS):
            x = _block(x, filters, stride if block == 0 else 1)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, keras.layers.Dense(TASK.classes)(x), name="resnet")


def inputs(labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Returns images with one pattern for each class."""
    patterns = random.normal(size=(TASK.classes, 32, 32, 3))
    noise = random.normal(size=(len(labels), 32, 32, 3))
    return (patterns[labels] + noise).astype("float32")


def _block(x: Any, filters: int, stride: int) -> Any:
    import keras

    short = x
    if stride > 1 or x.shape[-1] != filters:
        short = _normalised(x, filters, 1, stride)
    x = keras.layers.ReLU()(_normalised(x, filters, 3, stride))
    x = _normalised(x, filters, 3, 1)
    return keras.layers.ReLU()(keras.layers.add([x, short]))


def _normalised(x: Any, filters: int, size: int, stride: int) -> Any:
    import keras

    x = keras.layers.Conv2D(filters, size, stride, padding="same", use_bias=False)(x)
    return keras.layers.BatchNormalization()(x)
