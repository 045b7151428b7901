"""GradientCompression and LocalSGD: arguments, when they begin, one process."""

import warnings

import keras
import numpy as np
import pytest

import tfdist
from tests.parallel.training import regression
from tfdist.callbacks import GradientCompression, LocalSGD
from tfdist.callbacks.compression_start import start_of, warmup_steps_of
from tfdist.compression import PowerSGD, names
from tfdist.gradients.attach import path_of

schedules = keras.optimizers.schedules


@pytest.mark.parametrize("name", names())
def test_config_round_trip(name):
    callback = GradientCompression(name, start_step=7, log=False, seed=3)
    again = GradientCompression.from_config(callback.get_config())
    assert again.get_config() == callback.get_config()
    assert again.compressor == callback.compressor


def test_object_instead_of_name():
    callback = GradientCompression(PowerSGD(rank=2))
    assert callback.compressor.rank == 2


@pytest.mark.parametrize(
    ("arguments", "excerpt"),
    [
        ({"compressor": "powersdg"}, "Did you mean 'powersgd'"),
        ({"compressor": "powersgd", "rnak": 4}, "Did you mean 'rank'"),
        ({"compressor": "powersgd", "rank": 0}, "1 or more"),
        ({"compressor": "topk", "ratio": 0.0}, "ratio"),
        ({"compressor": "randomk", "ratio": 1.5}, "ratio"),
        ({"compressor": "int8", "block": 0}, "block"),
        ({"compressor": "sign", "error_feedback": False}, "fails to converge"),
        ({"compressor": "fp16", "error_feedback": True}, "not a contraction"),
        ({"compressor": "topk", "start_step": -1}, "start_step"),
        ({"compressor": "topk", "start_step": "soon"}, "start_step"),
        ({"compressor": "topk", "min_size": -1}, "min_size"),
        ({"compressor": "topk", "seed": 2**32}, "seed"),
    ],
)
def test_wrong_arguments(arguments, excerpt):
    with pytest.raises(ValueError, match="Received: ") as error:
        GradientCompression(**arguments)
    assert excerpt in str(error.value)
    assert "HINT: " in str(error.value)


@pytest.mark.parametrize("arguments", [(0,), (2.5,), (2, "sgd")])
def test_wrong_local_steps(arguments):
    with pytest.raises(ValueError, match="HINT: "):
        LocalSGD(*arguments)


def test_local_steps_round_trip():
    callback = LocalSGD(5, keras.optimizers.SGD(0.7, momentum=0.9, nesterov=True))
    again = LocalSGD.from_config(callback.get_config())
    assert again.get_config() == callback.get_config()


@pytest.mark.parametrize(
    ("start", "warm_up", "params", "expected"),
    [
        (7, 30, {"steps": 10, "epochs": 20}, 7),
        (0, 30, {"steps": 10, "epochs": 20}, 0),
        ("auto", 30, {"steps": 10, "epochs": 20}, 30),
        ("auto", None, {"steps": 10, "epochs": 20}, 20),
        ("auto", None, {"steps": None, "epochs": 20}, 100),
    ],
)
def test_where_it_begins(start, warm_up, params, expected):
    assert start_of(start, warm_up, params) == expected


def test_warm_up_of_a_schedule():
    warm = schedules.CosineDecay(0.0, 100, warmup_target=0.1, warmup_steps=12)
    assert warmup_steps_of(keras.optimizers.SGD(warm)) == 12
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(warm))
    assert warmup_steps_of(scaled) == 12
    assert warmup_steps_of(keras.optimizers.SGD(0.1)) is None
    assert warmup_steps_of(keras.optimizers.SGD(schedules.CosineDecay(0.1, 9))) is None


@pytest.mark.parametrize(
    ("optimizer", "compressor", "warns"),
    [
        ("Adam", "topk", True),
        ("Nadam", "powersgd", True),
        ("Adafactor", "sign", True),
        ("Adam", "none", False),
        ("SGD", "topk", False),
        ("Lion", "topk", False),
    ],
)
def test_adaptive_optimizers_are_warned_of(optimizer, compressor, warns):
    callback = GradientCompression(compressor)
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)])
    model.compile(
        keras.optimizers.LossScaleOptimizer(getattr(keras.optimizers, optimizer)(0.1))
    )
    callback.set_model(model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        callback._warn_of_adaptive_optimizer()
    assert len(caught) == warns
    assert not warns or f"with {optimizer}" in str(caught[0].message)


def trained(callbacks):
    keras.utils.set_random_seed(1)
    with tfdist.strategy("default").scope():
        model = keras.Sequential(
            [keras.Input((8,)), keras.layers.Dense(6), keras.layers.Dense(1)]
        )
        model.compile(keras.optimizers.Adam(0.01), "mse")
    history = model.fit(*regression(), epochs=2, verbose=0, callbacks=callbacks)
    return model, history.history


def test_one_process_is_left_alone():
    plain, plain_history = trained([])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        callbacks = [LocalSGD(3), GradientCompression("sign", start_step=0)]
        model, history = trained(callbacks)
    assert history == plain_history
    assert path_of(model.optimizer) is None
    for one, other in zip(plain.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
