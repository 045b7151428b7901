"""Losses, reductions, added losses, regularisers and constraints."""

from typing import Any

import keras
import numpy as np

from tests.parallel.registry import Results, row
from tests.parallel.setting import Setting
from tests.parallel.training import (
    batches,
    binary,
    classes,
    compile_under,
    outcome,
    perceptron,
    regression,
    sgd,
    train,
)

Dense = keras.layers.Dense


@row("categorical cross-entropy from logits, label smoothing")
def categorical_crossentropy(setting: Setting) -> Results:
    inputs, labels = classes()
    return train(
        setting,
        build=lambda: perceptron(3),
        loss=keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=0.1
        ),
        data=(inputs, np.eye(3, dtype="float32")[labels]),
        evaluate=True,
    )


@row("binary cross-entropy from logits")
def binary_crossentropy(setting: Setting) -> Results:
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    return train(setting, loss=loss, data=binary())


@row("Huber, sum reduction")
def huber_sum(setting: Setting) -> Results:
    return train(
        setting,
        optimizer=lambda: sgd(learning_rate=0.01),
        loss=keras.losses.Huber(reduction="sum"),
        evaluate=True,
    )


@row("weighted-mean reduction")
def weighted_mean(setting: Setting) -> Results:
    inputs, targets = regression()
    weights = np.linspace(0.1, 3.0, 64).astype("float32")
    loss = keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")
    model = compile_under(setting, perceptron, sgd, loss)
    data = batches(inputs, targets, weights)
    history = model.fit(data, epochs=2, verbose=0)
    return outcome(setting, model, history, evaluate=data)


@row("a loss function of the user's own")
def own_function(setting: Setting) -> Results:
    def quartic(y_true: Any, y_pred: Any) -> Any:
        return keras.ops.mean((y_true - y_pred) ** 4, axis=-1)

    return train(
        setting, optimizer=lambda: sgd(learning_rate=0.01), loss=quartic, evaluate=True
    )


class ScalarLoss(keras.losses.Loss):
    """Reduces the examples itself, in part through a loss of Keras's."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        own = keras.ops.mean(keras.ops.square(y_true - y_pred))
        return own + 0.5 * keras.losses.Huber()(y_true, y_pred)


@row("a Loss subclass that returns a scalar, partial last batch")
def scalar_loss(setting: Setting) -> Results:
    return train(setting, loss=ScalarLoss(), data=regression(57), evaluate=True)


@row("a loss function of the user's own, integer labels")
def own_function_integers(setting: Setting) -> Results:
    def absolute(y_true: Any, y_pred: Any) -> Any:
        return keras.ops.mean(keras.ops.abs(y_true - y_pred), axis=-1)

    inputs, labels = classes()
    return train(setting, loss=absolute, data=(inputs, labels[:, None]))


class Activity(keras.layers.Layer):
    """Add the mean square of what passes to the loss."""

    def call(self, inputs: Any) -> Any:
        self.add_loss(0.1 * keras.ops.mean(keras.ops.square(inputs)))
        return inputs


@row("add_loss")
def add_loss(setting: Setting) -> Results:
    return train(setting, build=with_added_loss, evaluate=True)


def with_added_loss() -> keras.Model:
    return keras.Sequential(
        [keras.Input((8,)), Dense(6, activation="tanh"), Activity(), Dense(1)]
    )


class Endpoint(keras.layers.Layer):
    """Add loss objects to the loss, as Keras's guides do."""

    def __init__(self, reduction: str) -> None:
        super().__init__()
        self.loss = keras.losses.MeanSquaredError(reduction=reduction)

    def call(self, targets: Any, outputs: Any) -> Any:
        self.add_loss(0.1 * self.loss(targets, outputs))
        return outputs


@row("add_loss of loss objects in a layer, partial last batch")
def add_loss_object(setting: Setting) -> Results:
    def build() -> keras.Model:
        inputs, targets = keras.Input((8,)), keras.Input((1,))
        outputs = Dense(1)(Dense(6, activation="tanh")(inputs))
        for reduction in ("sum_over_batch_size", "sum"):
            outputs = Endpoint(reduction)(targets, outputs)
        return keras.Model([inputs, targets], outputs)

    inputs, targets = regression(57)
    model = compile_under(setting, build, sgd, None)
    history = model.fit(
        [inputs, targets], batch_size=16, epochs=2, shuffle=False, verbose=0
    )
    return outcome(setting, model, history)


def regularised(**options: Any) -> keras.Model:
    return keras.Sequential(
        [keras.Input((8,)), Dense(6, activation="tanh", **options), Dense(1)]
    )


@row("weight regularisers")
def weight_regularisers(setting: Setting) -> Results:
    return train(
        setting,
        build=lambda: regularised(kernel_regularizer="l2", bias_regularizer="l1"),
        evaluate=True,
    )


@row("activity regulariser")
def activity_regulariser(setting: Setting) -> Results:
    return train(setting, build=lambda: regularised(activity_regularizer="l2"))


@row("add_loss, partial last batch")
def add_loss_partial(setting: Setting) -> Results:
    return train(setting, build=with_added_loss, data=regression(57))


@row("weight and activity regularisers, partial last batch")
def regularisers_partial(setting: Setting) -> Results:
    return train(
        setting,
        build=lambda: regularised(kernel_regularizer="l2", activity_regularizer="l2"),
        data=regression(57),
    )


@row("weight regulariser beside a sum loss, partial last batch")
def regulariser_and_sum(setting: Setting) -> Results:
    return train(
        setting,
        build=lambda: regularised(kernel_regularizer="l2"),
        optimizer=lambda: sgd(learning_rate=0.01),
        loss=keras.losses.MeanSquaredError(reduction="sum"),
        data=regression(57),
    )


@row("constraints")
def constraints(setting: Setting) -> Results:
    return train(
        setting,
        build=lambda: regularised(
            kernel_constraint=keras.constraints.MaxNorm(0.7),
            bias_constraint="non_neg",
        ),
    )
