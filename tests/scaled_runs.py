"""Models whose weights tell the learning rate of every step."""

import keras
import numpy as np

RATE = 0.125  # a power of two: what is computed by hand is exact
STEPS = 4  # of an epoch


def falling(optimizer=None, **options):
    """Return a model whose weight is 0 and falls by the rate in every step of SGD."""
    model = keras.Sequential(
        [
            keras.Input((1,)),
            keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros"),
        ]
    )
    optimizer = optimizer or keras.optimizers.SGD(RATE)
    model.compile(optimizer, lambda _, outputs: outputs, **options)
    return model


def fit(model, *callbacks, epochs=3, **options):
    """Train four batches of 16 an epoch; return the logged rates."""
    ones = np.ones((64, 1), "float32")
    options = {"batch_size": 16, "verbose": 0, "shuffle": False} | options
    model.fit(ones, ones, epochs=epochs, callbacks=list(callbacks), **options)
    return model.history.history.get("learning_rate")


def weight(model):
    return model.get_weights()[0].item()


class Weights(keras.callbacks.Callback):
    """Record the rates of plain SGD: the differences of the weight."""

    def on_train_begin(self, logs=None):
        self.weights = [weight(self.model)]

    def on_train_batch_end(self, batch, logs=None):
        self.weights.append(weight(self.model))

    @property
    def rates(self):
        return (-np.diff(self.weights)).tolist()


def by_hand(scaled, warmup, steps):
    """Return the rates of a warm-up from RATE, and what follows."""
    return [RATE + (scaled - RATE) * min(step / warmup, 1.0) for step in range(steps)]


def quadratic(optimizer):
    model = falling(optimizer)
    model.compile(optimizer, lambda _, outputs: outputs**2 / 2)
    model.set_weights([np.ones((1, 1))])
    return model
