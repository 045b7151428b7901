"""A small convolutional network for 8x8 images of digits."""

from __future__ import annotations

import keras
from keras import layers

BATCH_SIZE = 64  # images in one step over all replicas
EPOCHS = 20
RATE = 0.05


def build(steps: int, rate: float = RATE) -> keras.Model:
    """Returns the compiled, untrained network.

    Args:
        steps: Optimizer steps in the whole training, over which the learning rate
            falls to zero along a cosine.
        rate: The learning rate of the first step.
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
    network.compile(
        keras.optimizers.SGD(
            keras.optimizers.schedules.CosineDecay(rate, steps), momentum=0.9
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return network
