"""Loss scaling, overflow, and 16-bit policies."""

from typing import Any

import keras
import numpy as np

from tests.parallel.registry import Results, row
from tests.parallel.setting import Setting
from tests.parallel.training import regression, sgd, train

HALF_TOLERANCE = 5e-3  # a few units in the last place of float16, summed
BFLOAT16_TOLERANCE = 2e-2


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
