"""Every optimizer of Keras goes on bit for bit, between two updates of the weights."""

import keras
import pytest

from tests.parallel.setting import Rendezvous, Setting
from tests.resumed_runs import Run, forgetting

# All that a slot can be for; the rest of the arguments is the same for all.
OPTIONS = {
    "Adam": {"amsgrad": True},
    "AdamW": {"amsgrad": True},
    "RMSprop": {"centered": True, "momentum": 0.9},
    "SGD": {"momentum": 0.9, "nesterov": True},
}
ABSTRACT = {"Optimizer"}
NAMES = sorted(
    name
    for name, kind in vars(keras.optimizers).items()
    if isinstance(kind, type)
    and issubclass(kind, keras.optimizers.Optimizer)
    and name not in ABSTRACT
)


def made(name: str) -> keras.optimizers.Optimizer:
    """Return an optimizer that averages the weights and accumulates gradients."""
    common = {"use_ema": True, "ema_momentum": 0.8, "gradient_accumulation_steps": 2}
    if name == "LossScaleOptimizer":
        inner = keras.optimizers.Adam(0.05, use_ema=True)
        return keras.optimizers.LossScaleOptimizer(inner, dynamic_growth_steps=2)
    if name == "MultiOptimizer":
        of_biases = {".*bias": keras.optimizers.Adam(0.05, **common)}
        of_others = keras.optimizers.SGD(0.05, momentum=0.9, **common)
        chosen = keras.optimizers.OptimizerMap(of_others, of_biases)
        return keras.optimizers.MultiOptimizer(chosen)
    return getattr(keras.optimizers, name)(0.05, **OPTIONS.get(name, {}), **common)


class Built(Run):
    """Builds optimizers before `fit`, as recovery does and Keras 3.15 does not.

    ScheduleFreeAdamW, built while its first step is traced, begins anew in each step.
    """

    def model(self) -> keras.Model:
        model = super().model()
        model.optimizer.build(model.trainable_variables)
        return model


@pytest.fixture
def setting(tmp_path):
    return Setting("test", None, 0, 1, tmp_path, Rendezvous(tmp_path / "meet", 0, 1))


def test_all_are_there():
    assert {"Adadelta", "Adagrad", "Adamax", "Ftrl", "Lion", "Nadam"} < set(NAMES)


@pytest.mark.failure(20)
@pytest.mark.parametrize("name", NAMES)
def test_it_goes_on_between_two_updates(setting, name):
    run = Built(
        setting,
        build=lambda: keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)]),
        optimizer=lambda: made(name),
        epochs=2,
    )
    run.check(after=6, step=5, every=5)  # in the second epoch
    run.check_control(forgetting("optimizer/*"))
