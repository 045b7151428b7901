"""Many trainings in one `fit`: to trace a step anew would cost more than to train."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tests.convergence import digits
from tests.convergence.experiment import Settings, Training
from tfdist.compression.residuals import RESIDUAL
from tfdist.gradients.attach import path_of
from tfdist.gradients.compressed import CompressedSum

STEPS_BETWEEN_DRAWS = 1_000_000  # trainings with different seeds draw differently


def dataset(
    trainings: Sequence[Training], settings: Settings
) -> tuple[tf.data.Dataset, int]:
    """Return the batches of all trainings one after the other, and their number.

    Before the first one come two executions, which are forgotten: compression begins
    with the second.
    """
    images, labels = digits.images_and_labels()
    orders = [
        digits.batches(labels, training.seed, training.fold, settings)
        for training in trainings
    ]
    prelude = orders[0][: 2 * digits.steps_of_epoch(labels, settings)]
    order = np.concatenate([prelude, *orders]).astype("int16")

    def look_up(chosen: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        chosen = tf.cast(chosen, tf.int32)
        return tf.gather(images, chosen), tf.gather(labels, chosen)

    return tf.data.Dataset.from_tensor_slices(order).map(look_up), len(order)


class ManyTrainings(keras.callbacks.Callback):
    """Begins each training anew, and hands over the model at its end.

    Args:
        trainings: In the order of their batches.
        settings: Those of the batches.
        finished: Called with each training when the model has gone through it.
    """

    def __init__(
        self,
        trainings: Sequence[Training],
        settings: Settings,
        finished: Callable[[Training, keras.Model], None],
    ) -> None:
        super().__init__()
        self._trainings = list(trainings)
        self._finished = finished
        _, labels = digits.images_and_labels()
        epoch = digits.steps_of_epoch(labels, settings)
        self._prelude, self._steps = 2 * epoch, settings.epochs * epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """End one training and begin the next, where it is time."""
        number, steps = divmod(batch + 1 - self._prelude, self._steps)
        if steps or number < 0:
            return
        if number > 0:
            self._finished(self._trainings[number - 1], self.model)
        if number < len(self._trainings):
            begin(self.model, self._trainings[number].seed)


def begin(model: keras.Model, seed: int) -> None:
    """Make everything that training changes what it is before a first step."""
    shapes = [tuple(weight.shape) for weight in model.weights]
    model.set_weights(digits.first_weights(shapes, seed))
    optimizer = model.optimizer
    for variable in optimizer.variables:
        variable.assign(np.zeros(variable.shape, variable.dtype))
    while isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer.dynamic_scale.assign(optimizer.initial_scale)
        optimizer = optimizer.inner_optimizer
    reduction = path_of(model.optimizer).method.reduction
    if isinstance(reduction, CompressedSum):
        first = {name: v.numpy() for name, v in reduction.fused.init().items()}
        first["step"] = np.int64(seed * STEPS_BETWEEN_DRAWS)
        reduction.assign(
            {
                name: np.zeros_like(value)
                if name.startswith(RESIDUAL)
                else first.get(name, np.zeros_like(value))
                for name, value in reduction.state().items()
            }
        )
