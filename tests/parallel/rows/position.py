"""A fit that stops in the middle of an epoch, and another one that goes on there.

Under every strategy both together see the batches of one process that never stopped,
in its order: the momentum of the optimizer makes the weights depend on it. Other data
and the rest of the state are in the rows of `recovery`.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tfdist
from tests.parallel.registry import Needs, Results, row
from tests.parallel.setting import GLOBAL_BATCH, Setting
from tests.parallel.training import compile_under, outcome, perceptron, regression, sgd
from tfdist.strategies import fits
from tfdist.strategies.arguments import global_batch_size
from tfdist.strategies.course import course_of

EXAMPLES = 57  # three batches of 16 and one of 9
EPOCHS = 3


class StopAt(keras.callbacks.Callback):
    """Stops `fit` at a position, or begins it there."""

    def __init__(self, stop: tuple[int, int] | None, start: Any = None) -> None:
        super().__init__()
        fits.install()
        self.stop = stop
        self.start = start
        self.state: Any = None
        self.steps: list[tuple[int, int]] = []

    def on_train_begin(self, logs: Any = None) -> None:
        self.course = course_of(self.model)
        if self.start is not None:
            self.course.resume(self.start)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        position = self.course.position()
        self.steps.append((position.epoch, position.batch))
        if self.steps[-1] == self.stop:
            self.state = self.course.state(position)
            raise InterruptedError


def interrupted(setting: Setting, data: Callable[[], Any], **fit: Any) -> Results:
    """Train with a stop in the second epoch; the reference trains without one."""
    keras.utils.set_random_seed(5)
    model, again = (compile_under(setting, perceptron, sgd, "mse") for _ in range(2))
    again.set_weights(model.get_weights())
    # A second process makes its data anew.
    given = [data() for _ in range(2)]
    arguments = {"epochs": EPOCHS, "batch_size": GLOBAL_BATCH, "verbose": 0} | fit
    first = StopAt((1, 2))
    if setting.strategy is not None:
        try:
            model.fit(*given[0], callbacks=[first], **arguments)
        except InterruptedError:
            with setting.scope():
                copy_state(model, again)
    second = StopAt(None, first.state)
    history = again.fit(*given[1], callbacks=[second], **arguments)
    assert history.epoch == ([0, 1, 2] if setting.strategy is None else [1, 2])
    steps = {"steps": np.array(first.steps + second.steps)}
    return steps | outcome(setting, again)


def copy_state(trained: keras.Model, model: keras.Model) -> None:
    """Give a model what another one and its optimizer have learned."""
    model.set_weights(trained.get_weights())
    model.optimizer.build(model.trainable_variables)
    pairs = zip(model.optimizer.variables, trained.optimizer.variables, strict=True)
    for variable, value in pairs:
        variable.assign(value)


def arrays() -> tuple[np.ndarray, np.ndarray]:
    return regression(EXAMPLES)


@row("steps_per_epoch with repeat, resumed in mid-epoch")
def resumed_steps(setting: Setting) -> Results:
    def endless() -> tuple[tf.data.Dataset]:
        data = tf.data.Dataset.from_tensor_slices(arrays())
        return (data.shuffle(EXAMPLES, seed=5).batch(GLOBAL_BATCH).repeat(),)

    return interrupted(setting, endless, batch_size=None, steps_per_epoch=3)


@row("tfdist.data, resumed in mid-epoch", needs=Needs.TFDIST)
def resumed_records(setting: Setting) -> Results:
    inputs, targets = arrays()
    rows = np.concatenate([inputs, targets], axis=1)
    paths = [str(setting.directory / f"part-{number}") for number in range(3)]
    if setting.rank == 0:
        for path, part in zip(paths, np.array_split(rows, 3), strict=True):
            with tf.io.TFRecordWriter(path) as writer:
                for values in part:
                    writer.write(values.tobytes())
    setting.barrier()

    def parse(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        values = tf.ensure_shape(tf.io.decode_raw(record, tf.float32), [9])
        return values[:8], values[8:]

    def read() -> tuple[Any]:
        with setting.scope():
            batches = tfdist.data.from_tfrecords(
                paths, parse, GLOBAL_BATCH, seed=3, shuffle_block=8, shard="records"
            )
        # Or a position saved on one number of processes would be none on another.
        assert global_batch_size({"x": batches.dataset}) == GLOBAL_BATCH
        return (batches.dataset,)

    return interrupted(setting, read, batch_size=None, steps_per_epoch=4)
