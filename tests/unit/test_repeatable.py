"""What of a pipeline a resumed run could not repeat is known before the first step."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdist.strategies import order, repeatable
from tfdist.strategies.repeatable import Outlasting, findings, outlasting


@pytest.fixture(autouse=True)
def no_seed():
    with order.seeded(None):
        yield


def data():
    return tf.data.Dataset.range(12)


def noisy(x):
    return tf.cast(x, tf.float32) + tf.random.normal([])


def from_python():
    return tf.data.Dataset.from_generator(
        lambda: iter(range(3)), output_signature=tf.TensorSpec([], tf.int32)
    )


def relaxed(dataset):
    options = tf.data.Options()
    options.deterministic = False
    return dataset.with_options(options)


def shaken(layer):
    return lambda x: layer(tf.cast(x, tf.float32), training=True)


def ranges(x):
    return tf.data.Dataset.range(x)


UNREPEATABLE = {
    "shuffle without a seed": (lambda: data().shuffle(4), "another order"),
    "the same below other stages": (
        lambda: data().shuffle(4).batch(2).repeat().prefetch(1),
        "another order",
    ),
    "map": (
        lambda: data().map(tf.square, num_parallel_calls=2, deterministic=False),
        "whatever order they are ready",
    ),
    "batch": (
        lambda: data().batch(2, num_parallel_calls=2, deterministic=False),
        "whatever order they are ready",
    ),
    "interleave": (
        lambda: data().interleave(ranges, num_parallel_calls=2, deterministic=False),
        "whatever order they are ready",
    ),
    "options": (
        lambda: relaxed(data().map(tf.square, num_parallel_calls=2)),
        "whatever order they are ready",
    ),
    "from_generator": (from_python, "Python code makes the data"),
    "numpy_function": (
        lambda: data().map(lambda x: tf.numpy_function(np.square, [x], tf.int64)),
        "Python code makes the data",
    ),
    "random numbers without a seed": (lambda: data().map(noisy), "without a seed"),
    "random layer": (
        lambda: data().batch(2).map(shaken(keras.layers.GaussianNoise(1.0, seed=1))),
        "changes a variable",
    ),
}
REPEATABLE = {
    "shuffle with a seed": lambda: data().shuffle(4, seed=1).batch(2),
    "parallel map": lambda: data().map(tf.square, num_parallel_calls=2),
    "parallel interleave": lambda: data().interleave(ranges, num_parallel_calls=2),
    "options for what is not parallel": lambda: relaxed(data().map(tf.square)),
    "stateless numbers": lambda: data().map(
        lambda x: tf.random.stateless_normal([], [1, x])
    ),
}


@pytest.mark.parametrize("name", UNREPEATABLE)
def test_what_cannot_be_repeated_is_found(name):
    make, expected = UNREPEATABLE[name]
    (found,) = findings("a dataset", make(), {})
    assert expected in found and "HINT: " in found


@pytest.mark.parametrize("name", REPEATABLE)
def test_what_can_be_repeated_is_not(name):
    assert findings("a dataset", REPEATABLE[name](), {}) == []


def test_a_seed_makes_it_repeatable_but_not_in_parallel():
    with order.seeded(7):
        assert findings("a dataset", data().shuffle(4).map(noisy), {}) == []
        (found,) = findings("a dataset", data().map(noisy, num_parallel_calls=2), {})
    assert "in parallel calls" in found


def test_a_seed_that_was_drawn_for_the_job_is_none(monkeypatch):
    monkeypatch.setattr(order, "_drawn", 7)
    with order.seeded(7):
        (found,) = findings("a dataset", data().shuffle(4, seed=1), {})
    assert "another order" in found
    with order.seeded(8):
        assert findings("a dataset", data().shuffle(4, seed=1), {}) == []


class Workers(keras.utils.PyDataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        return np.zeros((1, 1)), np.zeros((1, 1))


def test_other_kinds_of_data():
    assert findings("arrays", data().shuffle(4), {}) == []
    assert "cannot be told" in findings("a generator", from_python(), {})[0]
    assert "cannot be told" in findings("a dataset", None, {})[0]
    for workers, shuffle, number in [(2, True, 1), (2, False, 0), (1, True, 0)]:
        given = {"x": Workers(workers=workers), "shuffle": shuffle}
        assert len(findings("a PyDataset", from_python(), given)) == number


def test_shuffled_validation_data():
    validation = {"validation_data": data().shuffle(4, seed=1)}
    (found,) = findings("a dataset", data(), validation)
    assert "validation" in found
    assert findings("a dataset", data(), {"validation_data": data()}) == []


@pytest.mark.parametrize(
    "make, expected",
    [
        (lambda d: d.batch(2), Outlasting.NOTHING),
        (lambda d: d.shuffle(4, 1, reshuffle_each_iteration=False), Outlasting.NOTHING),
        (lambda d: d.shuffle(4, 1).map(tf.square).batch(2), Outlasting.BEGINNING),
        (lambda d: d.repeat(2).shuffle(4, 1).filter(bool_), Outlasting.BEGINNING),
        (lambda d: d.shuffle(4, 1).repeat(2).batch(2), Outlasting.ALL),
        (lambda d: d.shuffle(4, 1).cache(), Outlasting.ALL),
        (lambda d: d.concatenate(d.shuffle(4, 1)), Outlasting.ALL),
    ],
)
def test_what_outlasts_a_pass(make, expected):
    assert outlasting(make(data())) is expected


def bool_(x):
    return x > 0


def test_a_finding_is_told_once():
    twice = data().shuffle(4).shuffle(4).map(noisy).map(noisy)
    assert len(findings("a dataset", twice, {})) == 2
    assert "HINT" in repeatable.DRAWN_AHEAD
