"""Every Keras optimizer and tfdist's own, a few steps of each."""

from functools import partial
from typing import Any

import keras

import tfdist
from tests.parallel.registry import Results, row
from tests.parallel.setting import Setting
from tests.parallel.training import compile_under, outcome, perceptron, regression

RATE = 0.01
OPTIONS: dict[str, dict[str, Any]] = {
    "SGD": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    "RMSprop": {"momentum": 0.5, "centered": True},
    "Adam": {"amsgrad": True},
    "AdamW": {"weight_decay": 0.1},
    "Adadelta": {},
    "Adagrad": {},
    "Adamax": {},
    "Adafactor": {},
    "Nadam": {},
    "Ftrl": {"l1_regularization_strength": 0.01},
    "Lion": {},
    "Lamb": {},
    "Muon": {},
    "ScheduleFreeAdamW": {},
    "LARS": {"weight_decay": 0.01, "trust_coefficient": 0.1, "clipnorm": 0.05},
}


def found(optimizer: str) -> Any:
    """Return the class, or None: Keras 3.8 has neither Muon nor ScheduleFreeAdamW."""
    own = getattr(tfdist.optimizers, optimizer, None)
    return own or getattr(keras.optimizers, optimizer, None)


def fit_with(setting: Setting, optimizer: str) -> Results:
    """Train three steps."""
    build = found(optimizer)
    model = compile_under(
        setting, perceptron, lambda: build(RATE, **OPTIONS[optimizer]), "mse"
    )
    # Built by `fit` of a plain model, ScheduleFreeAdamW starts from weights of zero:
    # Keras builds symbolically there, which loses the copy that `build` makes.
    with setting.scope():
        model.optimizer.build(model.trainable_variables)
    inputs, targets = regression(48)
    history = model.fit(inputs, targets, batch_size=16, shuffle=False, verbose=0)
    return outcome(setting, model, history)


for _name in OPTIONS:
    if found(_name) is not None:
        register = row(_name, name=f"optimizer_{_name.lower()}")
        register(partial(fit_with, optimizer=_name))
