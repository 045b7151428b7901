"""The learning rate scaled with the batch and warmed up."""

from functools import partial
from typing import Any

import keras
import numpy as np

import tfdist
from tests.parallel.registry import Needs, Results, row
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

rate_row = partial(row, needs=Needs.TFDIST)


def scaled(setting: Setting, *others: Any, **options: Any) -> Results:
    """Train four times the batch that the rate is tuned for."""
    arguments = options.pop("scaling", {})
    scaling = tfdist.callbacks.LearningRateScaling(
        **{"reference_batch_size": 4, "warmup_epochs": 1.5} | arguments
    )
    options = {"optimizer": slow, "epochs": 3} | options
    return train(setting, callbacks=[scaling, *others], **options)


def slow(**options: Any) -> keras.optimizers.Optimizer:
    """Return what four times the rate does not make diverge."""
    return sgd(**{"learning_rate": 0.02, "nesterov": True} | options)


@rate_row("LearningRateScaling, linear, Nesterov momentum corrected")
def scaling_linear(setting: Setting) -> Results:
    return scaled(setting, data=regression(57))


@rate_row("LearningRateScaling of a schedule, AdamW, clipping")
def scaling_schedule(setting: Setting) -> Results:
    decay = keras.optimizers.schedules.CosineDecay
    return scaled(
        setting,
        scaling={"rule": "sqrt"},
        optimizer=lambda: keras.optimizers.AdamW(
            decay(0.01, 12), weight_decay=0.1, global_clipnorm=0.05
        ),
    )


@rate_row(
    "LearningRateScaling, accumulation 2, steps_per_execution 4, loss scale, cosine"
)
def scaling_accumulated(setting: Setting) -> Results:
    return scaled(
        setting,
        scaling={"after": "cosine", "initial": 0.01},
        optimizer=lambda: keras.optimizers.LossScaleOptimizer(
            slow(gradient_accumulation_steps=2)
        ),
        data=regression(96),
        compiled={"steps_per_execution": 4},
    )


@rate_row("LearningRateScaling, ReduceLROnPlateau, EarlyStopping")
def scaling_plateau(setting: Setting) -> Results:
    return scaled(
        setting,
        keras.callbacks.ReduceLROnPlateau("loss", 0.5, patience=1, min_delta=10.0),
        keras.callbacks.EarlyStopping("loss", min_delta=10.0, patience=3),
        epochs=6,
    )


class Began(keras.callbacks.Callback):
    """Note the step from which a GradientCompression would compress."""

    def __init__(self, compression: tfdist.callbacks.GradientCompression) -> None:
        super().__init__()
        self.compression = compression
        self.steps: list[int] = []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if self.compression._is_on():
            self.steps.append(
                int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))
            )


@rate_row("LearningRateScaling, GradientCompression from the warm-up's end")
def scaling_compressed(setting: Setting) -> Results:
    compression = tfdist.callbacks.GradientCompression("none", log=False)
    began = Began(compression)
    results = scaled(setting, compression, began)
    if setting.replicas > 1:
        assert began.steps == list(range(6, 12)), began.steps
    return results


@rate_row("lr_range_test of a model of which every rank has other weights, then fit")
def range_test(setting: Setting) -> Results:
    keras.utils.set_random_seed(1234 + setting.rank)
    model = compile_under(setting, perceptron, slow, "mse", steps_per_execution=2)
    data = batches(*regression(57))
    found = tfdist.tools.lr_range_test(model, data, largest=0.3, steps=10)
    history = model.fit(data, epochs=2, shuffle=False, verbose=0)
    results = outcome(setting, model, history)
    return results | {
        "history/range": np.asarray([found.rates, found.losses, found.smoothed])
    }
