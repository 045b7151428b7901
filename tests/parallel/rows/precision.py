"""Loss scaling, overflow, and 16-bit policies."""

from functools import partial
from typing import Any

import keras
import numpy as np

from tests.parallel.registry import Needs, Results, row
from tests.parallel.rows.models import OwnStep
from tests.parallel.setting import Setting
from tests.parallel.training import (
    batches,
    compile_under,
    outcome,
    perceptron,
    regression,
    sgd,
    train,
)

HALF_TOLERANCE = 5e-3  # a few units in the last place of float16, summed
BFLOAT16_TOLERANCE = 2e-2

precision_row = partial(row, needs=Needs.TFDIST, tolerance=HALF_TOLERANCE)


def scaled(
    inner: keras.optimizers.Optimizer, **options: Any
) -> keras.optimizers.Optimizer:
    return keras.optimizers.LossScaleOptimizer(inner, **options)


@row("LossScaleOptimizer, scale grows")
def loss_scale_finite(setting: Setting) -> Results:
    return train(
        setting,
        optimizer=lambda: scaled(sgd(), dynamic_growth_steps=3),
    )


def overflow(setting: Setting, rows: Any, **options: Any) -> Results:
    """Train where these rows overflow the scaled gradient, but not the loss."""
    inputs, targets = regression()
    inputs[rows] = 1e36
    return train(
        setting,
        build=lambda: keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)]),
        optimizer=lambda: scaled(sgd(**options), initial_scale=2.0**15),
        loss="mae",
        data=(inputs, targets),
    )


@row("LossScaleOptimizer, overflow on one rank")
def overflow_one(setting: Setting) -> Results:
    return overflow(setting, [18, 47])  # first the first rank's, later the last's


@row("LossScaleOptimizer, overflow on all ranks")
def overflow_all(setting: Setting) -> Results:
    return overflow(setting, slice(16, 32))


@row("LossScaleOptimizer, overflow on one rank, accumulation 2, clipping")
def overflow_accumulated(setting: Setting) -> Results:
    return overflow(setting, [31], gradient_accumulation_steps=2, global_clipnorm=0.05)


@row("LossScaleOptimizer, accumulation 2, AdamW")
def loss_scale_accumulated(setting: Setting) -> Results:
    return train(
        setting,
        optimizer=lambda: scaled(
            keras.optimizers.AdamW(0.01, gradient_accumulation_steps=2)
        ),
    )


@row("compiled again in another LossScaleOptimizer, and without one")
def loss_scale_again(setting: Setting) -> Results:
    with setting.scope():
        model, inner = perceptron(), sgd()  # clipping would hide a sum of sums
    for scale in (64.0, 8.0, None):
        with setting.scope():
            optimizer = inner if scale is None else scaled(inner, initial_scale=scale)
            model.compile(optimizer, "mse")
        history = model.fit(batches(*regression(32)), verbose=0)
    return outcome(setting, model, history)


@row("loss_scale_factor, clipping")
def loss_scale_factor(setting: Setting) -> Results:
    return train(
        setting, optimizer=lambda: sgd(loss_scale_factor=256.0, global_clipnorm=0.05)
    )


@row("mixed_float16", tolerance=HALF_TOLERANCE)
def mixed_float16(setting: Setting) -> Results:
    keras.config.set_dtype_policy("mixed_float16")
    return train(setting, evaluate=True, predict=True)


@row("mixed_float16, clipping, accumulation 2", tolerance=HALF_TOLERANCE)
def mixed_float16_accumulated(setting: Setting) -> Results:
    keras.config.set_dtype_policy("mixed_float16")
    return train(
        setting,
        optimizer=lambda: sgd(global_clipnorm=0.05, gradient_accumulation_steps=2),
    )


@row("mixed_float16, NaN in one rank's data", tolerance=HALF_TOLERANCE)
def mixed_float16_nan(setting: Setting) -> Results:
    keras.config.set_dtype_policy("mixed_float16")
    inputs, targets = regression()
    inputs[31] = np.nan
    return train(setting, data=(inputs, targets))


@row("mixed_bfloat16", tolerance=BFLOAT16_TOLERANCE)
def mixed_bfloat16(setting: Setting) -> Results:
    keras.config.set_dtype_policy("mixed_bfloat16")
    return train(setting, evaluate=True, predict=True)


def mixed(setting: Setting, policy: Any, *others: Any, **options: Any) -> Results:
    """Train with a MixedPrecision after other callbacks."""
    import tfdist

    arguments = options.pop("precision", {})
    precision = tfdist.callbacks.MixedPrecision(policy, **arguments)
    return train(setting, callbacks=[*others, precision], **options)


@precision_row("MixedPrecision, float16, clipping, accumulation 2, EMA, partial batch")
def precision_float16(setting: Setting) -> Results:
    return mixed(
        setting,
        "mixed_float16",
        optimizer=lambda: sgd(
            global_clipnorm=0.05, gradient_accumulation_steps=2, use_ema=True
        ),
        data=regression(57),
        # A scale far from overflow: one process, which sums more rows in float16
        # than a replica does, would skip a step earlier.
        precision={"growth_steps": 3, "initial_scale": 256.0},
    )


@precision_row("MixedPrecision, float16, overflow on one rank: skipped and counted")
def precision_overflow(setting: Setting) -> Results:
    inputs, targets = regression()
    inputs[[18, 47], 0] = 3e4  # first the first rank's, later the last's
    results = mixed(
        setting,
        "mixed_float16",
        build=lambda: keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)]),
        loss="mae",
        data=(inputs, targets),
        precision={"keep_float32": []},
    )
    assert results["history/skipped_steps"].tolist() == [2, 2]
    assert results["history/loss_scale"].tolist() == [2.0**13, 2.0**11]
    return results


@precision_row(
    "MixedPrecision under a global policy, 16-bit output", tolerance=BFLOAT16_TOLERANCE
)
def precision_output(setting: Setting) -> Results:
    keras.config.set_dtype_policy("mixed_bfloat16")
    return mixed(
        setting,
        "mixed_bfloat16",
        validation_data=regression(40),
        evaluate=True,
        predict=True,
        precision={"keep_float32": []},
    )


@precision_row("MixedPrecision, float16 output, custom train_step")
def precision_own_step(setting: Setting) -> Results:
    def build() -> keras.Model:
        model = OwnStep()
        model(regression()[0])
        return model

    return mixed(
        setting,
        "mixed_float16",
        build=build,
        evaluate=True,
        predict=True,
        precision={"keep_float32": []},
    )


@precision_row("MixedPrecision after a float32 fit: schedule, compression before it")
def precision_schedule(setting: Setting) -> Results:
    import tfdist

    data = batches(*regression())
    model = compile_under(setting, perceptron, sgd, "mse", steps_per_execution=2)
    model.fit(data, epochs=1, verbose=0)
    callbacks = [
        tfdist.callbacks.GradientCompression(
            "topk", ratio=1.0, start_step=0, min_size=0, log=False
        ),
        tfdist.callbacks.MixedPrecision([("mixed_float16", 0), ("float32", 0.75)]),
    ]
    history = model.fit(data, epochs=2, verbose=0, callbacks=callbacks)
    assert history.history["loss_scale"] == [2.0**15, 1.0]
    return outcome(setting, model, history)


@precision_row("LocalSGD(1), MixedPrecision float16 with a fixed scale")
def precision_local(setting: Setting) -> Results:
    import tfdist

    return mixed(
        setting,
        "mixed_float16",
        tfdist.callbacks.LocalSGD(1),
        optimizer=lambda: keras.optimizers.SGD(0.1),
        precision={"loss_scale": 1024.0},
    )
