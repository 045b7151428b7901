"""Callbacks in the list: which may stand where, and what a wrong list is told."""

import keras
import numpy as np
import pytest

import tfdist
from tfdist.callbacks import (
    GradientCompression,
    GradientNoiseScale,
    LearningRateScaling,
    LocalSGD,
    MixedPrecision,
)
from tfdist.strategies import fits

schedule = keras.callbacks.LearningRateScheduler


def compiled():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def fit(model, callbacks):
    inputs, targets = np.ones((8, 2), "f"), np.ones((8, 1), "f")
    model.fit(inputs, targets, batch_size=4, callbacks=callbacks, verbose=0)


class Own(LocalSGD):
    """What a user derives."""


class BackupAndRestore(keras.callbacks.Callback):
    """A user's own of the same name."""


def scaling():
    return LearningRateScaling(warmup_epochs=1)


WRONG = {
    "twice": (
        lambda folder: [LocalSGD(2), keras.callbacks.History(), LocalSGD(3)],
        "two LocalSGD",
    ),
    "derived": (lambda folder: [LocalSGD(2), Own(3)], "two LocalSGD"),
    "order": (
        lambda folder: [GradientCompression(), LocalSGD(2)],
        "GradientCompression before LocalSGD",
    ),
    "exclusive": (
        lambda folder: [GradientNoiseScale(), LocalSGD(2)],
        "GradientNoiseScale and LocalSGD exclude each other",
    ),
    "exclusive the other way round": (
        lambda folder: [GradientCompression(), GradientNoiseScale()],
        "GradientNoiseScale and GradientCompression exclude each other",
    ),
    "warm-up": (
        lambda folder: [GradientCompression(), scaling()],
        "GradientCompression before LearningRateScaling",
    ),
    "plateau": (
        lambda folder: [keras.callbacks.ReduceLROnPlateau("loss"), scaling()],
        "ReduceLROnPlateau before LearningRateScaling",
    ),
    "schedule": (
        lambda folder: [schedule(lambda epoch, rate: rate), scaling()],
        "LearningRateScheduler before LearningRateScaling",
    ),
    "backup": (
        lambda folder: [
            keras.callbacks.BackupAndRestore(folder),
            MixedPrecision("float32"),
        ],
        "BackupAndRestore before MixedPrecision",
    ),
    "logs": (
        lambda folder: [keras.callbacks.CSVLogger(folder / "log.csv"), scaling()],
        "CSVLogger before LearningRateScaling",
    ),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("container", [list, keras.callbacks.CallbackList])
def test_wrong_lists_are_refused_before_anything_has_changed(case, container, tmp_path):
    make, excerpt = WRONG[case]
    model = compiled()
    before, rate = model.get_weights(), model.optimizer.get_config()
    callbacks = make(tmp_path)
    if container is not list:
        callbacks = container(callbacks, add_history=True, model=model, epochs=1)
    with pytest.raises(ValueError, match=r"Received: (.|\n)*HINT: ") as error:
        fit(model, callbacks)
    assert excerpt in str(error.value)
    assert all(map(np.array_equal, before, model.get_weights()))
    assert model.optimizer.get_config() == rate
    assert fits.running(model) is None


def test_the_hint_of_an_order_is_the_right_one():
    with pytest.raises(ValueError, match=r"callbacks=\[LocalSGD\(...\), GradientC"):
        fit(compiled(), [GradientCompression(), LocalSGD(2)])


def test_a_loop_of_ones_own_is_checked_too():
    callbacks = [LocalSGD(2), LocalSGD(3)]
    both = keras.callbacks.CallbackList(callbacks, model=compiled())
    with pytest.raises(ValueError, match="two LocalSGD"):
        both.on_train_begin()


def test_control_right_lists_train(tmp_path):
    model = compiled()
    before = model.get_weights()
    callbacks = [
        MixedPrecision("float32"),
        scaling(),
        LocalSGD(2),
        GradientCompression(),
        keras.callbacks.ReduceLROnPlateau("loss"),
        schedule(lambda epoch, rate: rate),
        BackupAndRestore(),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
    ]
    fit(model, callbacks)
    fit(model, callbacks)  # each may be given again
    assert not all(map(np.array_equal, before, model.get_weights()))
    assert "learning_rate" in (tmp_path / "log.csv").read_text()


def test_a_users_own_class_of_the_same_name_stands_anywhere():
    fit(compiled(), [BackupAndRestore(), MixedPrecision("float32")])


def test_every_callback_has_its_place():
    kinds = [getattr(tfdist.callbacks, name) for name in tfdist.callbacks.__all__]
    kinds = [kind for kind in kinds if isinstance(kind, type)]
    assert len(kinds) >= 5
    for kind in kinds:
        assert issubclass(kind, tfdist.callbacks.place.Placed), kind
