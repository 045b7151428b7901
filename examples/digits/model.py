"""Small networks for 8x8 images of digits."""

from __future__ import annotations

import keras
from keras import layers

BATCH_SIZE = 64  # images in one step over all replicas
EPOCHS = 20
RATE = 0.05


def build(steps: int) -> keras.Model:
    """Returns the compiled, untrained network.

    Args:
        steps: Optimizer steps in the whole training, over which the learning rate
            falls to zero along a cosine.
    """
    network = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(128, 3, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(10),
        ]
    )
    return compile_for(network, steps)


def build_perceptron(steps: int) -> keras.Model:
    """Returns a smaller network, compiled and untrained; it takes larger rates.

    Args:
        steps: See `build`.
    """
    network = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Rescaling(1.0, offset=-0.3),  # a mean near 0
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(128, activation="relu"),
            layers.Dense(10),
        ]
    )
    return compile_for(network, steps)


def compile_for(network: keras.Model, steps: int) -> keras.Model:
    """Returns the network, compiled for that many steps."""
    rate = keras.optimizers.schedules.CosineDecay(RATE, steps)
    network.compile(
        keras.optimizers.SGD(rate, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return network
