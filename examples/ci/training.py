"""The code under test: what a project's own training script would import."""

from __future__ import annotations

import keras
import numpy as np

import tfdist


def fit(steps: int = 20) -> keras.Model:
    """Returns a small model that all ranks have trained together."""
    tfdist.set_seed(1)
    random = np.random.default_rng(0)
    inputs = random.normal(size=(16 * steps, 8)).astype("float32")
    targets = inputs.sum(axis=1, keepdims=True)
    with tfdist.strategy("auto").scope():
        model = keras.Sequential([keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(inputs, targets, batch_size=16, epochs=3, verbose=0)
    return model
