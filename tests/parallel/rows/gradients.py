"""Clipping and gradient accumulation."""

import keras

from tests.parallel.registry import Results, row
from tests.parallel.setting import Setting
from tests.parallel.training import regression, sgd, train


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
