"""GradientCompression and LocalSGD: arguments, when they begin, one process."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdist
from tests.parallel.training import regression
from tfdist import compression
from tfdist.callbacks import GradientCompression, LocalSGD
from tfdist.callbacks.compression_start import (
    start_of,
    steps_before,
    warmup_steps_of,
)
from tfdist.callbacks.compression_warnings import (
    say_what_stays,
    warn_of_adaptive_optimizer,
)
from tfdist.compression import Fused, PowerSGD, names
from tfdist.gradients.attach import path_of
from tfdist.gradients.compressed import slots_of
from tfdist.gradients.reduction import Kind
from tfdist.strategies import fits

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


def test_a_schedule_need_not_have_a_config():
    class Constant(schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.1

    assert warmup_steps_of(keras.optimizers.SGD(Constant())) is None


@pytest.mark.parametrize(
    ("steps", "warm_up", "seen", "before"),
    [(10, None, 0, 30), (10, 5, 30, 30), (10, 5, 0, 0), (None, None, 0, 0)],
)
def test_steps_before_the_first_epoch(steps, warm_up, seen, before):
    """A new optimizer warms up in this fit, whatever number its first epoch has."""
    fits.install()
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    model.optimizer.iterations.assign(seen)
    found = []
    ask = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: found.append(steps_before(model, steps, warm_up))
    )
    model.fit(*regression(16), initial_epoch=3, epochs=4, verbose=0, callbacks=[ask])
    assert found == [before]


@pytest.mark.parametrize(
    ("optimizer", "compressor", "warns"),
    [
        ("Adam", "topk", True),
        ("Nadam", "powersgd", True),
        ("Adafactor", "sign", True),
        ("Adam", "none", False),
        ("Adam", "fp16", False),
        ("SGD", "topk", False),
        ("Lion", "topk", False),
    ],
)
def test_adaptive_optimizers_are_warned_of(optimizer, compressor, warns):
    inner = getattr(keras.optimizers, optimizer)(0.1)
    scaled = keras.optimizers.LossScaleOptimizer(inner)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_adaptive_optimizer(scaled, compression.get(compressor))
    assert len(caught) == warns
    assert not warns or f"with {optimizer}" in str(caught[0].message)


@pytest.mark.parametrize(
    ("name", "rows", "said"),
    [("topk", 40, False), ("topk", 4, True), ("none", 4, False)],
)
def test_it_says_so_if_nothing_is_large_enough(name, rows, said, caplog):
    kinds = [Kind("0.kernel", (rows, 40), tf.float32, False)]
    say_what_stays(kinds, Fused(compression.get(name), slots_of(kinds), 2))
    assert ("compresses nothing" in caplog.text) == said


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


def left_by_two(name="kernel"):
    """Return what two processes that compressed a model's one kernel have saved."""
    draws = np.random.default_rng(0)
    path = f"0.{name}"
    return [
        {
            "steps": 40,
            "epoch": [0, 0],
            "seen": [[path, [8, 1], "float32", False]],
            "kinds": [[path, [8, 1], "float32", False]],
            "arrays": {
                "step": np.int64(40),
                f"residual/{path}": draws.normal(size=(1, 8, 1)).astype("f4"),
                "compression/learning_rate": np.float32(0),
            },
        }
        for _ in range(2)
    ]


def after_steps(steps, states):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1, use_bias=False)])
    model.compile(keras.optimizers.SGD(0.5), "mse")
    callback = GradientCompression("topk", ratio=0.5, min_size=0)
    if states:
        callback.set_state(states)
    history = model.fit(
        *regression(32), batch_size=32, epochs=steps, verbose=0, callbacks=[callback]
    )
    return model.get_weights()[0], history.history, callback


@pytest.mark.failure(36)
def test_one_process_pays_what_several_have_left(caplog):
    states = left_by_two()
    plain, _, _ = after_steps(1, None)
    weights, logs, callback = after_steps(1, states)
    left = sum(state["arrays"]["residual/0.kernel"][0] for state in states)
    np.testing.assert_allclose(weights, plain - 0.5 * left, atol=1e-6)
    assert logs["residual_norm"] == [0.0] and logs["bytes_per_step"] == [0.0]
    assert "goes into its first step" in caplog.text
    # Saved again, the debt is paid: the next one has nothing to add.
    paid = [callback.get_state()]
    assert paid[0]["steps"] == 41 and not paid[0]["arrays"]["residual/0.kernel"].any()
    again, _, _ = after_steps(1, paid)
    np.testing.assert_array_equal(again, plain)


def test_the_state_of_other_arguments_is_refused():
    states = left_by_two()
    for state in states:
        state["arrays"]["q/0.kernel"] = np.zeros((1, 1), "f4")  # PowerSGD's
    with pytest.raises(ValueError, match=r"a change in q/0\.kernel\.") as error:
        after_steps(1, states)
    assert "HINT: " in str(error.value)


def test_one_process_does_not_pay_what_an_outer_optimizer_has_left(caplog):
    plain, _, _ = after_steps(1, None)
    weights, _, _ = after_steps(1, left_by_two("outer_0"))
    np.testing.assert_array_equal(weights, plain)
    assert "is left out" in caplog.text
