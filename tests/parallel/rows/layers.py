"""Layers with sparse gradients, statistics, randomness or long graphs."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tests.parallel.registry import Results, row
from tests.parallel.rows.data import SumOfOutputs
from tests.parallel.setting import GLOBAL_BATCH, Setting
from tests.parallel.training import (
    compile_under,
    outcome,
    regression,
    sgd,
    tokens,
    train,
)

layers = keras.layers


def sequence_model(*middle: Callable[[], Any], mask: bool = False) -> keras.Model:
    """Return an embedding, the layers under test, and a dense output."""
    return keras.Sequential(
        [
            keras.Input((6,), dtype="int32"),
            layers.Embedding(20, 4, mask_zero=mask),
            *(build() for build in middle),
            layers.Dense(1),
        ]
    )


def embedding(setting: Setting, optimizer: Callable[[], Any]) -> Results:
    return train(
        setting,
        build=lambda: sequence_model(layers.GlobalAveragePooling1D),
        optimizer=optimizer,
        data=tokens(),
    )


@row("Embedding (sparse gradient), SGD")
def embedding_sgd(setting: Setting) -> Results:
    return embedding(setting, sgd)


@row("Embedding (sparse gradient), Adam")
def embedding_adam(setting: Setting) -> Results:
    return embedding(setting, lambda: keras.optimizers.Adam(0.01))


@row("Embedding, Adam, global_clipnorm, accumulation 2")
def embedding_accumulated(setting: Setting) -> Results:
    return embedding(
        setting,
        lambda: keras.optimizers.Adam(
            0.01, global_clipnorm=0.05, gradient_accumulation_steps=2
        ),
    )


@row("Embedding, LossScaleOptimizer, clipvalue")
def embedding_loss_scale(setting: Setting) -> Results:
    return embedding(
        setting, lambda: keras.optimizers.LossScaleOptimizer(sgd(clipvalue=0.01))
    )


@row("LSTM on masked sequences")
def lstm(setting: Setting) -> Results:
    return train(
        setting,
        build=lambda: sequence_model(lambda: layers.LSTM(4), mask=True),
        data=tokens(),
    )


@row("MultiHeadAttention")
def attention(setting: Setting) -> Results:
    def build() -> keras.Model:
        inputs = keras.Input((6,), dtype="int32")
        embedded = layers.Embedding(20, 4)(inputs)
        attended = layers.MultiHeadAttention(2, 4)(embedded, embedded)
        hidden = layers.LayerNormalization()(attended + embedded)
        pooled = layers.GlobalAveragePooling1D()(hidden)
        return keras.Model(inputs, layers.Dense(1)(pooled))

    return train(setting, build=build, data=tokens())


def normalised(**options: Any) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(6),
            layers.BatchNormalization(momentum=0.5, **options),
            layers.Activation("tanh"),
            layers.Dense(1),
        ]
    )


@row("synchronized BatchNormalization")
def synchronized_normalization(setting: Setting) -> Results:
    return train(
        setting,
        build=lambda: normalised(synchronized=True),
        evaluate=True,
        validation_data=regression(32),
    )


@row("synchronized BatchNormalization, partial last batch")
def synchronized_normalization_partial(setting: Setting) -> Results:
    return train(
        setting, build=lambda: normalised(synchronized=True), data=regression(57)
    )


@row(
    "plain BatchNormalization: the mean over replicas at an epoch's end",
    compared=False,  # the number of rows depends on the number of replicas
)
def plain_normalization(setting: Setting) -> Results:
    # At rate 0 the statistics depend on the data alone. Means of equal shares average
    # to the batch's mean; variances of shares do not, so they are not compared here.
    rows = setting.replicas * 16
    inputs, targets = regression(rows)
    model = compile_under(setting, normalised, lambda: sgd(learning_rate=0.0), "mse")
    statistics = model.layers[1]
    seen: list[np.ndarray] = []
    record = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(statistics.moving_mean.numpy())
    )
    history = model.fit(
        inputs,
        targets,
        batch_size=rows // 2,
        shuffle=False,
        epochs=2,
        validation_data=(inputs, targets),
        callbacks=[record],
        verbose=0,
    )
    projected = inputs @ model.layers[0].kernel.numpy()
    expected = np.zeros(6)
    for epoch in range(2):
        for half in np.split(projected, 2):
            expected = 0.5 * expected + 0.5 * half.mean(axis=0)
        np.testing.assert_allclose(seen[epoch], expected, atol=1e-5)
    return {"history/moving_mean": np.asarray(seen)} | outcome(setting, model, history)


class Centring(layers.Layer):
    """A user's own layer, which learns the mean of its inputs without gradients."""

    def build(self, shape: Any) -> None:
        self.mean = self.add_weight(shape=shape[1:], trainable=False, name="mean")
        tenth = keras.initializers.Constant(0.1)
        self.rate = self.add_weight(initializer=tenth, trainable=False, name="rate")

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        if not training:
            return inputs - self.mean
        self.mean.assign_add(self.rate * (keras.ops.mean(inputs, axis=0) - self.mean))
        return inputs


def centred() -> keras.Model:
    return keras.Sequential([keras.Input((8,)), Centring(), layers.Dense(1)])


@row("moving average of a layer of one's own")
def own_average(setting: Setting) -> Results:
    # Equal shares: the mean of their means is the mean of the batch.
    data = regression(48)
    return train(setting, build=centred, data=data, batch_size=12, validation_data=data)


@row("moving average of a layer of one's own, last batch of one row", compared=False)
def own_average_of_few(setting: Setting) -> Results:
    # The mean over no rows is NaN: replicas without any keep what they have learned.
    model = compile_under(setting, centred, sgd, "mse")
    history = model.fit(*regression(33), batch_size=16, epochs=2, verbose=0)
    rate, mean = model.layers[0].rate.numpy(), model.layers[0].mean.numpy()
    assert rate == np.float32(0.1), "a mean of equal numbers is not what they are"
    assert np.isfinite(mean).all() and mean.any()
    return outcome(setting, model, history)


def dropout_mask(setting: Setting, seed: int) -> np.ndarray:
    """Train one step and read from the weights which values dropout kept."""
    keras.utils.set_random_seed(seed)
    width = 8

    def build() -> keras.Model:
        identity = keras.Input((GLOBAL_BATCH,))
        ones = keras.Input((width,))
        kept = layers.Dropout(0.5)(ones)
        pairs = layers.Multiply()(
            [layers.Reshape((-1, 1))(identity), layers.Reshape((1, -1))(kept)]
        )
        output = layers.Dense(1, use_bias=False, kernel_initializer="zeros")
        return keras.Model([identity, ones], output(layers.Flatten()(pairs)))

    with setting.scope():
        model = build()
        model.compile(keras.optimizers.SGD(1.0), SumOfOutputs())
    inputs = [
        np.eye(GLOBAL_BATCH, dtype="float32"),
        np.ones((GLOBAL_BATCH, width), "float32"),
    ]
    targets = np.zeros((GLOBAL_BATCH, 1), "float32")
    model.fit(inputs, targets, batch_size=GLOBAL_BATCH, shuffle=False, verbose=0)
    return model.get_weights()[0].reshape(GLOBAL_BATCH, width) != 0.0


@row("dropout: differs between replicas, repeats from one seed", compared=False)
def dropout(setting: Setting) -> Results:
    mask = dropout_mask(setting, 3)
    assert np.array_equal(mask, dropout_mask(setting, 3)), "one seed, two masks"
    assert not np.array_equal(mask, dropout_mask(setting, 4)), "two seeds, one mask"
    share = GLOBAL_BATCH // setting.replicas
    first, last = mask[:share], mask[-share:]
    if setting.replicas > 1:
        assert not np.array_equal(first, last), "replicas dropped the same values"
    return {"history/mask": mask.astype("float64")}
