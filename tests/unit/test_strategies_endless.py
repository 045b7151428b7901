"""Data that never end, where nothing else ends an epoch; in one process."""

import contextlib
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdist
from tfdist import cluster
from tfdist.strategies import endless, fits

ROWS = np.ones((2, 1), "float32")


class Tired(keras.callbacks.Callback):
    """Ends what would go on for ever."""

    def on_train_batch_end(self, batch, logs=None):
        if batch > 20:
            raise TimeoutError("it goes on")

    on_test_batch_end = on_predict_batch_end = on_train_batch_end


@pytest.fixture(scope="module", params=["default", "mirrored"])
def model(request):
    options = {"devices": ["CPU:0"]} if request.param == "mirrored" else {}
    with tfdist.strategy(request.param, **options).scope():
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
    yield model
    cluster.install(None)


def few() -> tf.data.Dataset:
    return tf.data.Dataset.from_tensors((ROWS, ROWS))


def call(model, name, data, **options):
    if name == "fit":
        options["shuffle"] = False
    getattr(model, name)(data, verbose=0, callbacks=[Tired()], **options)


@pytest.mark.parametrize(
    ("name", "steps", "options"),
    [
        ("fit", "steps_per_epoch", {}),
        ("fit", "validation_steps", {"steps_per_epoch": 2}),
        ("evaluate", "steps", {}),
        ("predict", "steps", {}),
    ],
)
def test_an_endless_dataset_needs_a_number_of_steps(model, name, steps, options):
    data = few().repeat()
    if steps == "validation_steps":
        options = {"validation_data": data} | options
    before = model.get_weights()[0]
    with pytest.raises(ValueError, match=rf"for ever.*{steps}(.|\n)*HINT"):
        call(model, name, data, **options)
    np.testing.assert_array_equal(model.get_weights()[0], before)
    call(model, name, data, **options, **{steps: 2})


@pytest.mark.filterwarnings("ignore:Your input ran out of data")  # Keras's, as always
@pytest.mark.parametrize("name", endless.METHODS)
def test_data_of_unknown_length_pass(model, name):
    unknown = few().repeat().take_while(lambda x, y: False).concatenate(few())
    assert unknown.cardinality() == tf.data.UNKNOWN_CARDINALITY
    call(model, name, unknown)
    call(model, name, ((ROWS, ROWS) for _ in range(3)))
    with pytest.raises(TimeoutError, match="goes on"):  # the check can see it
        call(model, name, ((ROWS, ROWS) for _ in itertools.count()))


@pytest.mark.filterwarnings("ignore:Limiting steps_per_epoch to 2")
def test_what_keras_ends_for_debugging_passes(model):
    cap = getattr(keras.config, "set_max_steps_per_epoch", None)
    if cap is None:
        pytest.skip("a Keras without it")
    cap(2)
    try:
        call(model, "fit", few().repeat())
    finally:
        cap(None)


def test_a_distributed_dataset_is_looked_into():
    distribute = tf.distribute.MirroredStrategy(
        ["CPU:0"]
    ).distribute_datasets_from_function

    def check(read):
        data = distribute(lambda context: read())
        with endless.refused(
            fits.Call(None, "fit", {"x": data}, contextlib.ExitStack())
        ):
            pass

    check(few)
    with pytest.raises(ValueError, match="for ever"):
        check(lambda: few().repeat())
