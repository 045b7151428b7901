"""Fewer bytes in a second `fit`: after layers, rates or weights have changed."""

import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tests.parallel.registry import Needs, Results, row
from tests.parallel.rows.compression import compress, total_residual
from tests.parallel.setting import Setting
from tests.parallel.training import (
    batches,
    compile_under,
    outcome,
    perceptron,
    regression,
    replica_gap,
    sgd,
)

TOPK: dict[str, Any] = {"compressor": "topk", "ratio": 0.2}


def freeze(setting: Setting, model: keras.Model, frozen: bool) -> None:
    """Compile anew, with the same optimizer, as Keras asks for."""
    with setting.scope():
        model.optimizer.build(model.trainable_variables)
        model.layers[0].trainable = not frozen
        model.compile(model.optimizer, "mse")


def fit(model: keras.Model, callbacks: list[Any], **options: Any) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # top-k of half of all elements
        options = {"verbose": 0, "callbacks": callbacks} | options
        return dict(model.fit(batches(*regression()), **options).history)


@row("compressed anew after a layer was frozen", compared=False, needs=Needs.TFDIST)
def frozen_in_between(setting: Setting) -> Results:
    model = compile_under(setting, perceptron, sgd, "mse")
    if setting.replicas == 1:
        return {}
    fit(model, [compress(**TOPK)])
    freeze(setting, model, True)
    before, frozen = model.get_weights(), compress(**TOPK)
    fit(model, [frozen])
    assert np.array_equal(before[0], model.get_weights()[0])
    freeze(setting, model, False)
    thawed = compress(**TOPK, log=True)
    logs = fit(model, [thawed])
    assert not np.array_equal(before[0], model.get_weights()[0])
    assert logs["compression_ratio"][0] > 1
    residuals = [
        {name for name in each.get_state()["arrays"] if name.startswith("residual/")}
        for each in (frozen, thawed)
    ]
    assert len(residuals[0]) == 1 and residuals[0] < residuals[1]
    return outcome(setting, model)


@row("residuals follow the rate of every update", compared=False, needs=Needs.TFDIST)
def rates_in_between(setting: Setting) -> Results:
    """A skipped step is none, and a new optimizer's rate is its own."""
    model = compile_under(
        setting,
        lambda: keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)]),
        lambda: keras.optimizers.SGD(0.1),
        "mse",
    )
    if setting.replicas == 1:
        return {}

    def remembered() -> tuple[Any, Any]:
        rate = callback.get_state()["arrays"]["compression/learning_rate"]
        return float(rate), total_residual(setting, callback)

    callback = compress(**TOPK, residual_lr_correction=True)
    fit(model, [callback])
    rate, left = remembered()
    assert np.isclose(rate, 0.1)
    model.optimizer.learning_rate = 0.01
    inputs, targets = regression(16)
    model.fit(batches(inputs * np.nan, targets), verbose=0, callbacks=[callback])
    again, kept = remembered()
    assert again == rate and np.array_equal(kept, left)
    with setting.scope():
        model.compile(keras.optimizers.SGD(0.03), "mse")
    fit(model, [callback])
    assert np.isclose(remembered()[0], 0.03)
    return outcome(setting, model)


@row("another model; steps before initial_epoch", compared=False, needs=Needs.TFDIST)
def another_model(setting: Setting) -> Results:
    models = [
        compile_under(setting, build, sgd, "mse")
        for build in (perceptron, lambda: perceptron(2))
    ]
    if setting.replicas == 1:
        return {}
    callback = compress(**TOPK)
    fit(models[0], [callback])
    callback.set_state([callback.get_state()] * setting.size)
    restored = [fit(models[0], [callback], epochs=3)]
    callback.log = True
    late = compress(**TOPK, start_step="auto", log=True)
    restored += [
        fit(models[1], [callback]),
        fit(models[1], [late], epochs=50, initial_epoch=48),
    ]
    assert restored[1]["compression_ms"][0] > 0
    # 8 steps are left of 200, whose first 20 would not be compressed.
    assert restored[2]["compression_ratio"][-1] > 1
    return outcome(setting, models[1])


class Backwards(keras.layers.Layer):
    """Gives what is before it a gradient of NaN where an input is 0."""

    def call(self, inputs: Any) -> Any:
        @tf.custom_gradient
        def same(inputs: Any) -> Any:
            def gradient(upstream: Any) -> Any:
                return tf.where(inputs == 0, np.float32("nan"), upstream)

            return tf.identity(inputs), gradient

        return same(inputs)


@row("NaN in sparse gradients alone: all skip", compared=False, needs=Needs.TFDIST)
def sparse_nan(setting: Setting) -> Results:
    """In the second of three batches, on the last rank."""
    layers = keras.layers
    model = compile_under(
        setting,
        lambda: keras.Sequential(
            [layers.Embedding(20, 4), Backwards(), layers.Flatten(), layers.Dense(1)]
        ),
        sgd,
        "mse",
    )
    ids = np.arange(1, 97).reshape(48, 2) % 19 + 1
    targets = np.ones((48, 1), "float32")
    if setting.replicas == 1:
        return {}
    callback = compress(**TOPK)
    model.fit(batches(ids, targets), verbose=0, callbacks=[callback])
    table = model.get_weights()[0]
    table[0] = 0  # the word whose gradient is NaN
    model.set_weights([table, *model.get_weights()[1:]])
    ids[31] = 0
    kept: list[Any] = []
    record = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: kept.append(model.get_weights())
    )
    model.fit(batches(ids, targets), verbose=0, callbacks=[callback, record])
    for before, after in zip(kept[0], kept[1], strict=True):
        np.testing.assert_array_equal(before, after)
    assert not np.array_equal(kept[2][0], kept[1][0])
    assert all(np.isfinite(weights).all() for weights in kept[2])
    return outcome(setting, model)


@row("LocalSGD again: other layers, other weights", compared=False, needs=Needs.TFDIST)
def local_again(setting: Setting) -> Results:
    import tfdist

    model = compile_under(
        setting, perceptron, lambda: keras.optimizers.Adam(0.01), "mse"
    )
    if setting.replicas == 1:
        return {}
    nesterov = keras.optimizers.SGD(0.7, momentum=0.9, nesterov=True)
    callback = tfdist.callbacks.LocalSGD(3, nesterov)
    freeze(setting, model, True)
    fit(model, [callback])
    freeze(setting, model, False)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        callbacks = [callback, compress(**TOPK)]
        model.fit(batches(*regression()), verbose=0, callbacks=callbacks)
    # Adam sees no compressed sum: the outer optimizer does.
    assert not any("no theory" in str(warning.message) for warning in told)
    # The outer weights are the model's: without a rate only momentum moves them, by
    # less than what was put on top.
    model.set_weights([weights + 10 for weights in model.get_weights()])
    model.optimizer.learning_rate = 0.0
    fit(model, [callback])
    assert min(weights.min() for weights in model.get_weights()) > 8
    state, other = callback.get_state(), tfdist.callbacks.LocalSGD(3)
    other.set_state([state] * setting.size)
    try:
        fit(model, [other])
    except ValueError as error:
        assert "HINT: Give LocalSGD the outer optimizer" in str(error)
    else:
        raise AssertionError("the state of another outer optimizer was taken")
    return weights_of(setting, model)


@row("LocalSGD broken off: common weights again", compared=False, needs=Needs.TFDIST)
def local_broken_off(setting: Setting) -> Results:
    import tfdist

    def build() -> keras.Model:
        layers = keras.layers
        unit = keras.constraints.UnitNorm()
        dense = layers.Dense(6, activation="tanh", kernel_constraint=unit)
        normal = layers.BatchNormalization()
        last = layers.SpectralNormalization(layers.Dense(1))
        return keras.Sequential([keras.Input((8,)), dense, normal, last])

    model = compile_under(setting, build, lambda: keras.optimizers.SGD(0.1), "mse")
    if setting.replicas == 1:
        return {}

    class BreakOff(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if batch == 1:
                raise InterruptedError

    for callbacks in ([], [tfdist.callbacks.LocalSGD(3)]):
        try:
            fit(model, [tfdist.callbacks.LocalSGD(3), BreakOff()])
        except InterruptedError:
            fit(model, callbacks)
        else:
            raise AssertionError("the fit was not broken off")
    norms = np.linalg.norm(model.get_weights()[0], axis=0)
    np.testing.assert_allclose(norms, 1, atol=1e-6)
    return weights_of(setting, model)


def weights_of(setting: Setting, model: keras.Model) -> Results:
    """Return what all replicas share after local steps: not the optimizer's state."""
    results = outcome(setting, model)
    results = {key: value for key, value in results.items() if "optimizer" not in key}
    gap = np.float64(replica_gap(setting, model.weights))
    return results | {"replicas/gap": gap}
