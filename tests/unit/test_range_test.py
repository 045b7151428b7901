"""The learning-rate range test in one process."""

import math
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdist.tools import RangeTest, lr_range_test, range_test


def dataset(rows=64, batch=16):
    draws = np.random.default_rng(5)
    inputs = draws.normal(size=(rows, 4)).astype("float32")
    return tf.data.Dataset.from_tensor_slices((inputs, inputs[:, :1])).batch(batch)


def everything(optimizer):
    """Return a model with all kinds of state: statistics, random numbers, metrics."""
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(1),
        ]
    )
    model.compile(optimizer, "mse", metrics=["mae"], steps_per_execution=2)
    return model


def trained(tested, optimizer):
    """Train, test where asked, and train on; return all that is then known."""
    model = everything(optimizer)
    options = {"epochs": 2, "verbose": 0, "shuffle": False}
    logs = []
    for number in range(2):
        if tested:
            found = lr_range_test(model, dataset(), steps=10, largest=0.1)
            assert found.rates
            assert vars(model).get("history") is (model.history if number else None)
        history = model.fit(dataset(), **options)
        logs.append(history.history)
    metrics = [v.numpy() for v in model.metrics_variables]
    states = [v.numpy() for v in [*model.variables, *model.optimizer.variables]]
    return logs, states + metrics


SCHEDULE = keras.optimizers.schedules.ExponentialDecay
OPTIMIZERS = {
    "Adam": lambda: keras.optimizers.Adam(0.01),
    "a schedule": lambda: keras.optimizers.SGD(SCHEDULE(0.1, 4, 0.5), momentum=0.9),
    "a loss scale": lambda: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.01, gradient_accumulation_steps=2)
    ),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_goes_on_as_if_there_had_been_no_test(optimizer):
    logs, states = trained(True, OPTIMIZERS[optimizer]())
    expected_logs, expected = trained(False, OPTIMIZERS[optimizer]())
    assert logs == expected_logs
    for state, other in zip(states, expected, strict=True):
        np.testing.assert_array_equal(state, other)


def parabola():
    """Return a model with the loss w^2 / 2: it diverges with rates above 2."""
    model = keras.Sequential(
        [
            keras.Input((1,)),
            keras.layers.Dense(1, use_bias=False, kernel_initializer="ones"),
        ]
    )
    model.compile(keras.optimizers.SGD(0.1), lambda _, outputs: outputs**2 / 2)
    return model


ONES = tf.data.Dataset.from_tensors((np.ones((8, 1)), np.ones((8, 1))))


def test_rates_and_losses_are_those_of_each_step(tmp_path):
    model = parabola()
    found = lr_range_test(
        model, ONES, smallest=1e-3, largest=1.0, steps=13, plot=tmp_path / "a.png"
    )
    rates = [1e-3 * 10 ** (step / 4) for step in range(13)]
    losses, weight = [], 1.0
    for rate in rates:
        weight -= rate * weight
        losses.append(weight**2 / 2)
    np.testing.assert_allclose(found.rates, rates, rtol=1e-9)
    np.testing.assert_allclose(found.losses, losses, rtol=1e-5, atol=1e-12)
    assert 0.03 < found.suggestion < 1.0
    assert str(found).count("falls fastest") == 1
    assert len(str(found).splitlines()) == 14
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert model.get_weights()[0].item() == 1.0


def test_it_ends_where_the_loss_diverges():
    found = lr_range_test(parabola(), ONES, smallest=0.1, largest=1e4, steps=50)
    assert len(found.rates) < 49
    assert found.rates[-1] > 2.0
    assert all(map(math.isfinite, found.rates))


def test_a_loss_that_never_falls_suggests_nothing(tmp_path):
    assert range_test.suggested([1.0, 2.0, 4.0], [1.0, 2.0, 3.0]) is None
    assert range_test.suggested([1.0, 2.0, 4.0], [3.0, 2.0, float("nan")]) is None
    assert range_test.suggested([1.0], [1.0]) is None
    found = RangeTest((1.0, 2.0), (1.0, 2.0), (1.0, 2.0), None)
    range_test.draw(found, tmp_path / "a.png")
    assert (tmp_path / "a.png").exists()


def test_the_suggestion_is_not_misled_by_noise():
    draws = np.random.default_rng(1)
    rates = np.geomspace(1e-6, 1.0, 100)
    falling = 1 - 0.9 / (1 + np.exp(-2 * (np.log10(rates) + 2) / 0.5))
    for _ in range(20):
        losses = falling + draws.normal(scale=0.1, size=100)
        assert 1e-3 < range_test.suggested(rates, losses) < 1e-1


def test_moving_average_is_unbiased():
    assert range_test.moving_average([2.0] * 5) == pytest.approx([2.0] * 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"smallest": 0.0}, "smallest.*0.0"),
        ({"smallest": "low"}, "smallest.*'low'"),
        ({"largest": 1e-7}, "have to rise.*largest=1e-07"),
        ({"largest": math.inf}, "largest.*inf"),
        ({"steps": 1}, "steps.*1"),
        ({"steps": 2.5}, "steps.*2.5"),
        ({"plot": "rates.jpg"}, "rates.jpg"),
        ({"plot": 5}, "plot=5"),
        ({"plot": "no/such/folder/rates.png"}, "no/such/folder"),
    ],
)
def test_bad_arguments(options, message):
    model = parabola()
    with pytest.raises(ValueError, match=rf"{message}(.|\n)*HINT"):
        lr_range_test(model, ONES, **options)
    assert model.get_weights()[0].item() == 1.0


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (ONES.take(0), "a dataset without batches"),
        (ONES.map(lambda x, y: (x * math.nan, y)), "the loss nan before"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*ran out of data")
def test_data_without_a_loss_is_refused(data, words, tmp_path):
    model = parabola()
    with pytest.raises(ValueError, match=rf"no loss to show(.|\n)*{words}(.|\n)*HINT"):
        lr_range_test(model, data, plot=tmp_path / "a.png")
    assert model.get_weights()[0].item() == 1.0
    assert not list(tmp_path.iterdir())


def test_arrays_are_refused():
    with pytest.raises(TypeError, match=r"ndarray(.|\n)*HINT"):
        lr_range_test(parabola(), np.ones((8, 1)))


def test_models_that_do_not_exist_yet_are_refused():
    unbuilt = keras.Sequential([keras.layers.Dense(1)])
    unbuilt.compile("sgd", "mse")
    uncompiled = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    for model in (unbuilt, uncompiled, None):
        with pytest.raises(ValueError, match=r"does not exist yet(.|\n)*HINT"):
            lr_range_test(model, ONES)


def test_a_missing_matplotlib_is_told_before_any_step(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"HINT: .*tfdist\[plot\]"):
        lr_range_test(parabola(), ONES, plot=tmp_path / "a.png")
