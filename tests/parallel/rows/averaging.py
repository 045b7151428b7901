"""Moving averages of the weights."""

import keras

from tests.parallel.registry import Results, row
from tests.parallel.setting import Setting
from tests.parallel.training import regression, sgd, train


@row("EMA, written over the weights at the end of fit")
def ema(setting: Setting) -> Results:
    return train(
        setting,
        optimizer=lambda: keras.optimizers.AdamW(0.01, use_ema=True, ema_momentum=0.8),
        predict=True,
    )


@row("EMA, ema_overwrite_frequency")
def ema_overwrite(setting: Setting) -> Results:
    return train(
        setting,
        optimizer=lambda: sgd(
            use_ema=True, ema_momentum=0.8, ema_overwrite_frequency=3
        ),
    )


@row("EMA overwrite, accumulation 2, clipping")
def ema_accumulated(setting: Setting) -> Results:
    return train(
        setting,
        optimizer=lambda: sgd(
            use_ema=True,
            ema_momentum=0.8,
            ema_overwrite_frequency=2,
            gradient_accumulation_steps=2,
            clipnorm=0.05,
        ),
        data=regression(57),
    )


@row("SwapEMAWeights")
def swap_ema(setting: Setting) -> Results:
    return train(
        setting,
        optimizer=lambda: sgd(use_ema=True, ema_momentum=0.8),
        callbacks=[keras.callbacks.SwapEMAWeights(swap_on_epoch=True)],
        validation_data=regression(),
    )
