"""Kinds of models, inputs and outputs."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tests.parallel.registry import Results, row
from tests.parallel.setting import Setting
from tests.parallel.training import (
    batches,
    compile_under,
    outcome,
    regression,
    sgd,
    tokens,
    train,
)

Dense = keras.layers.Dense


@row("dict inputs")
def dict_inputs(setting: Setting) -> Results:
    def build() -> keras.Model:
        left, right = keras.Input((3,), name="left"), keras.Input((5,), name="right")
        both = keras.layers.Concatenate()([left, Dense(4)(right)])
        return keras.Model({"left": left, "right": right}, Dense(1)(both))

    inputs, targets = regression()
    parts = {"left": inputs[:, :3], "right": inputs[:, 3:]}
    return train(setting, build=build, data=(parts, targets), predict=True)


@row("a list of inputs alone, as arrays and from a generator")
def list_alone(setting: Setting) -> Results:
    def build() -> keras.Model:
        left, right = keras.Input((3,)), keras.Input((5,))
        both = keras.layers.Concatenate()([left, right])
        return keras.Model([left, right], Dense(1)(both))

    model = compile_under(setting, build, sgd, "mse")
    inputs, _ = regression(57)
    parts = inputs[:, :3], inputs[:, 3:]

    def batches_of_parts() -> Iterator[Any]:
        for start in range(0, len(inputs), 16):
            yield (tuple(part[start : start + 16] for part in parts),)

    predicted = model.predict(batches_of_parts(), verbose=0)
    return outcome(setting, model, predict=list(parts)) | {
        "predict/generator": predicted.astype("float64")
    }


def two_heads() -> keras.Model:
    inputs = keras.Input((8,))
    hidden = Dense(6, activation="tanh")(inputs)
    outputs = {"a": Dense(1, name="a")(hidden), "b": Dense(2, name="b")(hidden)}
    return keras.Model(inputs, outputs)


def two_targets(rows: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    inputs, targets = regression(rows)
    return inputs, {"a": targets, "b": inputs[:, :2] * targets}


@row("two outputs with loss weights")
def two_outputs(setting: Setting) -> Results:
    return train(
        setting,
        build=two_heads,
        loss={"a": "mse", "b": "huber"},
        data=two_targets(64),
        compiled={"loss_weights": {"a": 1.0, "b": 0.3}, "metrics": {"a": "mae"}},
        evaluate=True,
        predict=True,
    )


@row("two outputs, sum beside mean, partial last batch", may_refuse=True)
def outputs_sum_and_mean(setting: Setting) -> Results:
    losses = keras.losses
    return train(
        setting,
        build=two_heads,
        optimizer=lambda: sgd(learning_rate=0.01),
        loss={"a": losses.MeanSquaredError(reduction="sum"), "b": losses.Huber()},
        data=two_targets(57),
    )


@row("two outputs, one weighted mean, partial last batch", may_refuse=True)
def outputs_weighted_mean(setting: Setting) -> Results:
    mse = keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")
    model = compile_under(setting, two_heads, sgd, {"a": mse, "b": "mae"})
    inputs, targets = two_targets(57)
    weights = {
        "a": np.linspace(0.1, 3.0, 57).astype("float32"),
        "b": np.linspace(2.0, 0.5, 57).astype("float32"),
    }
    data = batches(inputs, targets, weights)
    history = model.fit(data, epochs=2, verbose=0)
    return outcome(setting, model, history)


@row("two outputs, one masked, partial last batch", may_refuse=True)
def outputs_one_masked(setting: Setting) -> Results:
    def build() -> keras.Model:
        inputs = keras.Input((6,), dtype="int32")
        embedded = keras.layers.Embedding(20, 4, mask_zero=True)(inputs)
        each = Dense(1, name="each")(embedded)
        whole = Dense(1, name="whole")(keras.layers.GlobalAveragePooling1D()(embedded))
        return keras.Model(inputs, {"each": each, "whole": whole})

    ids, targets = tokens(57)
    per_token = np.cos(ids[..., None]).astype("float32")
    return train(
        setting,
        build=build,
        loss={"each": "mse", "whole": "mse"},
        data=(ids, {"each": per_token, "whole": targets}),
    )


@row("string inputs")
def strings(setting: Setting) -> Results:
    words = np.array(["red", "green", "blue", "grey"])

    def build() -> keras.Model:
        inputs = keras.Input((2,), dtype="string")
        ids = keras.layers.StringLookup(vocabulary=words[:3])(inputs)
        embedded = keras.layers.Embedding(4, 3)(ids)
        return keras.Model(inputs, Dense(1)(keras.layers.Flatten()(embedded)))

    picks = np.random.default_rng(5).integers(0, 4, size=(64, 2))
    targets = picks.sum(axis=1, keepdims=True).astype("float32") / 4
    model = compile_under(setting, build, sgd, "mse")
    data = batches(words[picks], targets)
    history = model.fit(data, epochs=2, verbose=0)
    return outcome(setting, model, history, evaluate=data)


class Subclassed(keras.Model):
    """A user's model, built by its first batch."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = Dense(6, activation="tanh")
        self.out = Dense(1)

    def call(self, inputs: Any) -> Any:
        return self.out(self.hidden(inputs))


@row("subclassed model, built by its first batch")
def subclassed(setting: Setting) -> Results:
    return train(setting, build=Subclassed, evaluate=True, predict=True)


@row("deferred Sequential")
def deferred(setting: Setting) -> Results:
    return train(
        setting,
        build=lambda: keras.Sequential([Dense(6, activation="tanh"), Dense(1)]),
    )


class OwnStep(Subclassed):
    """The training step of Keras's guide to custom steps."""

    def train_step(self, data: Any) -> dict[str, Any]:
        inputs, targets = data
        with tf.GradientTape() as tape:
            outputs = self(inputs, training=True)
            loss = self.compute_loss(y=targets, y_pred=outputs)
            loss = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        for metric in self.metrics:
            if metric.name != "loss":  # it is scaled for distribution by now
                metric.update_state(targets, outputs)
        return {metric.name: metric.result() for metric in self.metrics}


def own_step(setting: Setting, **options: Any) -> Results:
    return train(setting, build=OwnStep, compiled={"metrics": ["mae"]}, **options)


@row("custom train_step")
def custom_train_step(setting: Setting) -> Results:
    return own_step(setting)


@row("custom train_step, clipping, partial last batch")
def custom_train_step_partial(setting: Setting) -> Results:
    return own_step(
        setting,
        optimizer=lambda: sgd(global_clipnorm=0.05),
        data=regression(57),
    )


class OwnLosses(Subclassed):
    """A training step that tells its losses to metrics, with and without weights."""

    def __init__(self) -> None:
        super().__init__()
        self.own_loss = keras.losses.MeanSquaredError()
        self.own_mean = keras.metrics.Mean(name="own_mean")

    def train_step(self, data: Any) -> dict[str, Any]:
        inputs, targets = data
        with tf.GradientTape() as tape:
            outputs = self(inputs, training=True)
            loss = self.compute_loss(y=targets, y_pred=outputs)
            own = self.own_loss(targets, outputs)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
            elif metric.name == "own_mean":
                metric.update_state(own, sample_weight=tf.shape(inputs)[0])
            else:
                metric.update_state(targets, outputs)
        return self.get_metrics_result() | {"own": own}


@row("losses as metrics, in a train_step and compiled, partial last batch")
def losses_as_metrics(setting: Setting) -> Results:
    return train(
        setting,
        build=OwnLosses,
        compiled={"metrics": lambda: [keras.losses.MeanSquaredError(name="as_metric")]},
        data=regression(57),
        evaluate=True,
    )


@row("a frozen layer and a layer without gradient")
def frozen(setting: Setting) -> Results:
    def build() -> keras.Model:
        inputs = keras.Input((8,))
        hidden = Dense(6, activation="tanh", trainable=False)(inputs)
        return keras.Model(inputs, Dense(1)(hidden))

    return train(setting, build=build)
