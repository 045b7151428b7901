"""Where the examples come from; that each is seen exactly once an epoch."""

import math
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from packaging.version import Version

from tests.parallel.registry import Needs, Results, row
from tests.parallel.setting import GLOBAL_BATCH, Setting
from tests.parallel.training import (
    batches,
    classes,
    compile_under,
    outcome,
    perceptron,
    regression,
    sgd,
    train,
)

EXAMPLES = 48


class SumOfOutputs(keras.losses.Loss):
    """The loss whose gradient counts: every example moves its own weight by 1."""

    def __init__(self) -> None:
        super().__init__(reduction="sum")

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return y_pred[:, 0]


def count_examples(setting: Setting, data: Any, **fit: Any) -> Results:
    """Train one weight for each example; return how often each was seen an epoch."""
    model = compile_under(
        setting,
        lambda: keras.Sequential(
            [
                keras.Input((EXAMPLES,)),
                keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros"),
            ]
        ),
        lambda: keras.optimizers.SGD(1.0),
        SumOfOutputs(),
    )
    snapshots = [np.zeros(EXAMPLES)]
    record = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: snapshots.append(model.get_weights()[0][:, 0])
    )
    arguments = data if isinstance(data, tuple) else (data,)
    model.fit(*arguments, epochs=3, verbose=0, callbacks=[record], **fit)
    seen = -np.diff(snapshots, axis=0)
    assert np.array_equal(seen, np.ones((3, EXAMPLES))), f"seen per epoch: {seen}"
    return {"history/seen": seen} | outcome(setting, model)


def identities() -> tuple[np.ndarray, np.ndarray]:
    return np.eye(EXAMPLES, dtype="float32"), np.zeros((EXAMPLES, 1), "float32")


@row("numpy, shuffled: each example once an epoch")
def numpy_shuffled(setting: Setting) -> Results:
    return count_examples(setting, identities(), batch_size=16, shuffle=True)


@row("numpy, shuffled, ranks with different seeds")
def numpy_shuffled_different_seeds(setting: Setting) -> Results:
    keras.utils.set_random_seed(100 + setting.rank)
    return count_examples(setting, identities(), batch_size=16, shuffle=True)


@row("tf.data, shuffled: each example once an epoch")
def dataset_shuffled(setting: Setting) -> Results:
    data = tf.data.Dataset.from_tensor_slices(identities())
    return count_examples(setting, data.shuffle(EXAMPLES, seed=5).batch(GLOBAL_BATCH))


class Batches(keras.utils.PyDataset):
    """Global batches, as a user's own class delivers them."""

    def __init__(self, inputs: np.ndarray, targets: np.ndarray) -> None:
        super().__init__()
        self.arrays = inputs, targets

    def __len__(self) -> int:
        return math.ceil(len(self.arrays[0]) / GLOBAL_BATCH)

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
        part = slice(index * GLOBAL_BATCH, (index + 1) * GLOBAL_BATCH)
        return tuple(array[part] for array in self.arrays)


@row("PyDataset: each example once an epoch")
def py_dataset_counted(setting: Setting) -> Results:
    return count_examples(setting, Batches(*identities()), shuffle=False)


def fit_on(setting: Setting, data: Any, **fit: Any) -> Results:
    """Fit the usual model on one data object."""
    model = compile_under(setting, perceptron, sgd, "mse")
    history = model.fit(data, epochs=2, verbose=0, **fit)
    return outcome(setting, model, history)


@row("tf.data, with evaluate and predict")
def dataset(setting: Setting) -> Results:
    model = compile_under(setting, perceptron, sgd, "mse")
    data = batches(*regression())
    history = model.fit(data, epochs=2, verbose=0)
    return outcome(setting, model, history, evaluate=data, predict=data)


@row("PyDataset")
def py_dataset(setting: Setting) -> Results:
    return fit_on(setting, Batches(*regression()), shuffle=False)


@row("PyDataset, shuffled, ranks with different seeds")
def py_dataset_shuffled_different_seeds(setting: Setting) -> Results:
    # Batches of two orders are none that the user made; counts do not show it.
    keras.utils.set_random_seed(100 + setting.rank)
    return fit_on(setting, Batches(*regression()), shuffle=True)


@row("Python generator")
def generator(setting: Setting) -> Results:
    inputs, targets = regression()

    def forever() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        while True:
            for start in range(0, len(inputs), GLOBAL_BATCH):
                part = slice(start, start + GLOBAL_BATCH)
                yield inputs[part], targets[part]

    return fit_on(setting, forever(), steps_per_epoch=4)


@row("Python generator with None for the sample weights")
def generator_of_none(setting: Setting) -> Results:
    inputs, targets = regression(57)

    def forever() -> Iterator[tuple[np.ndarray, np.ndarray, None]]:
        while True:
            for start in range(0, len(inputs), GLOBAL_BATCH):
                part = slice(start, start + GLOBAL_BATCH)
                yield inputs[part], targets[part], None

    return fit_on(setting, forever(), steps_per_epoch=4)


@row("steps_per_epoch with repeat")
def repeated(setting: Setting) -> Results:
    return fit_on(setting, batches(*regression()).repeat(), steps_per_epoch=3)


@row("a dataset of unknown cardinality")
def unknown_cardinality(setting: Setting) -> Results:
    return fit_on(setting, batches(*regression()).filter(lambda x, y: True))


@row("distributed dataset", needs=Needs.STRATEGY)
def distributed_dataset(setting: Setting) -> Results:
    data = batches(*regression())
    return fit_on(setting, setting.distribution.experimental_distribute_dataset(data))


def dataset_from_function(setting: Setting) -> Results:
    batch = 12  # get_per_replica_batch_size refuses what 2 or 3 does not divide

    def build(context: tf.distribute.InputContext) -> tf.data.Dataset:
        data = tf.data.Dataset.from_tensor_slices(regression(48))
        data = data.shard(context.num_input_pipelines, context.input_pipeline_id)
        return data.batch(context.get_per_replica_batch_size(batch)).repeat()

    data = setting.distribution.distribute_datasets_from_function(build)
    return fit_on(setting, data, steps_per_epoch=4)


# Keras 3.8 does not take what MirroredStrategy makes of a function for a dataset.
if Version(keras.__version__) >= Version("3.9"):
    row("dataset from function", needs=Needs.STRATEGY)(dataset_from_function)


@row("class weights")
def class_weights(setting: Setting) -> Results:
    return train(
        setting,
        build=lambda: perceptron(3, "softmax"),
        loss="sparse_categorical_crossentropy",
        data=classes(),
        class_weight={0: 0.5, 1: 2.0, 2: 3.0},
    )


@row("sample weights")
def sample_weights(setting: Setting) -> Results:
    weights = np.linspace(0.0, 2.0, 64).astype("float32")
    return train(setting, sample_weight=weights)
