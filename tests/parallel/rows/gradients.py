"""Clipping and gradient accumulation; the noise of gradients."""

from typing import Any
from unittest import mock

import keras
import numpy as np

import tfdist
from tests.parallel.registry import Needs, Results, row
from tests.parallel.setting import GLOBAL_BATCH, Setting
from tests.parallel.training import outcome, regression, sgd, train
from tfdist.compression import buffers


@row("gradients in many buffers, global_clipnorm", needs=Needs.TFDIST)
def many_buffers(setting: Setting) -> Results:
    with mock.patch.multiple(buffers, BUFFER_BYTES=4, FIRST_BYTES=4):
        return train(setting, optimizer=lambda: sgd(global_clipnorm=0.05))


@row("clipnorm")
def clipnorm(setting: Setting) -> Results:
    return train(setting, optimizer=lambda: sgd(clipnorm=0.05))


@row("global_clipnorm")
def global_clipnorm(setting: Setting) -> Results:
    return train(setting, optimizer=lambda: sgd(global_clipnorm=0.05))


@row("clipvalue")
def clipvalue(setting: Setting) -> Results:
    return train(setting, optimizer=lambda: sgd(clipvalue=0.01))


@row("global_clipnorm, partial last batch")
def global_clipnorm_partial(setting: Setting) -> Results:
    return train(
        setting, optimizer=lambda: sgd(global_clipnorm=0.05), data=regression(57)
    )


@row("gradient accumulation 2")
def accumulation_2(setting: Setting) -> Results:
    return train(setting, optimizer=lambda: sgd(gradient_accumulation_steps=2))


@row("gradient accumulation 4")
def accumulation_4(setting: Setting) -> Results:
    return train(setting, optimizer=lambda: sgd(gradient_accumulation_steps=4))


@row("gradient accumulation 3, an update spans two epochs")
def accumulation_3(setting: Setting) -> Results:
    return train(
        setting, optimizer=lambda: sgd(gradient_accumulation_steps=3), epochs=3
    )


@row("gradient accumulation 2, global_clipnorm")
def accumulation_clipped(setting: Setting) -> Results:
    return train(
        setting,
        optimizer=lambda: sgd(gradient_accumulation_steps=2, global_clipnorm=0.05),
    )


@row("gradient accumulation 2, AdamW, clipnorm")
def accumulation_adamw(setting: Setting) -> Results:
    return train(
        setting,
        optimizer=lambda: keras.optimizers.AdamW(
            0.01, weight_decay=0.1, clipnorm=0.05, gradient_accumulation_steps=2
        ),
    )


@row("gradient accumulation 2, partial last batch")
def accumulation_partial(setting: Setting) -> Results:
    return train(
        setting,
        optimizer=lambda: sgd(gradient_accumulation_steps=2),
        data=regression(57),
        epochs=3,
    )


@row("gradient accumulation 2, a rank left empty")
def accumulation_empty(setting: Setting) -> Results:
    return train(
        setting,
        optimizer=lambda: sgd(gradient_accumulation_steps=2),
        data=regression(33),
        epochs=2,
    )


FEATURES, DISTANCE = 32, 2.0


def noise_scale(setting: Setting, **options: Any) -> Results:
    """Measure the noise of a parabola: of w - x, where x has the covariance 1."""
    with setting.scope():
        model = keras.Sequential(
            [
                keras.Input((1,)),
                keras.layers.Dense(
                    FEATURES, use_bias=False, kernel_initializer="zeros"
                ),
            ]
        )
        model.compile(
            keras.optimizers.SGD(1e-4, **options),
            lambda x, w: keras.ops.sum((w - x) ** 2, axis=-1) / 2,
        )
    points = np.random.default_rng(3).normal(size=(200 * GLOBAL_BATCH, FEATURES))
    points += DISTANCE / FEATURES**0.5
    noise = tfdist.callbacks.GradientNoiseScale(decay=0.995)
    inputs = np.ones((len(points), 1), "float32")
    history = model.fit(
        inputs,
        points.astype("float32"),
        batch_size=GLOBAL_BATCH,
        shuffle=False,
        verbose=0,
        callbacks=[noise] * (setting.replicas > 1),
    )
    results = outcome(setting, model, history)
    if setting.replicas > 1:
        found = results.pop("history/gradient_noise_scale").item()
        expected = FEATURES / DISTANCE**2
        assert abs(found / expected - 1) < 0.15, f"{found}, not {expected}"
        _, _, batch, weight = noise.get_state()["averages"]
        assert round(batch / weight) == GLOBAL_BATCH * (
            options.get("gradient_accumulation_steps") or 1
        )
        train(setting, data=regression(GLOBAL_BATCH), epochs=1, callbacks=[noise])
        weight = noise.get_state()["averages"][-1]  # of one step of another model
        assert abs(weight - (1 - noise.decay)) < 1e-9, weight
    return results


@row("GradientNoiseScale of a parabola with known noise", needs=Needs.TFDIST)
def noise_of_parabola(setting: Setting) -> Results:
    return noise_scale(setting)


@row("GradientNoiseScale, accumulation 2", needs=Needs.TFDIST)
def noise_accumulated(setting: Setting) -> Results:
    return noise_scale(setting, gradient_accumulation_steps=2)
