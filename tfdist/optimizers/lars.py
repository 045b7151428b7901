"""Layer-wise adaptive rate scaling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfdist.arguments import checked_number
from tfdist.errors import explain

_EXCLUDED = ("bias", "gamma", "beta")  # Keras's names in all its layers


@keras.saving.register_keras_serializable("tfdist")
class LARS(keras.optimizers.SGD):
    """SGD with momentum, whose step in each layer is a fixed part of its weights.

    With very large batches and rates, the layers whose gradients are large against
    their weights diverge first. LARS brings all layers to the same relative step:

        v = m v + rate t |w| / (|g| + d |w|) (g + d w);  w = w - v

    with the weight decay d, which is part of the gradient here. Biases and the weights
    of normalisation are updated as by SGD, without decay. Weights or gradients that
    are all 0 are too.

    A saved model that was compiled with it needs tfdist to be loaded with its
    optimizer; `load_model(path, compile=False)` does not.

    Args:
        learning_rate: A number or a schedule.
        momentum: From 0 to 1.
        nesterov: Whether to use Nesterov's momentum.
        weight_decay: d; not what Keras's optimizers decay beside the gradient.
        trust_coefficient: t, the relative step.
        exclude: Names of the variables to update as by SGD; those with fewer than two
            dimensions always are.
        **options: Those of every Keras optimizer, such as `global_clipnorm`.

    Raises:
        ValueError: A negative weight decay, a trust coefficient that is not
            positive, or names that are not a list of them.

    References:
        You, Gitman, Ginsburg, Large batch training of convolutional networks,
        arXiv:1708.03888, 2017.

    Example:
        >>> optimizer = tfdist.optimizers.LARS(2.0, momentum=0.9, weight_decay=1e-4)
        >>> model.compile(optimizer, "sparse_categorical_crossentropy")
    """

    def __init__(
        self,
        learning_rate: Any = 0.01,
        momentum: float = 0.9,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
        exclude: Sequence[str] = _EXCLUDED,
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, momentum, nesterov, **options)
        self.decay = checked_number("weight_decay", weight_decay)
        self.trust_coefficient = checked_number(
            "trust_coefficient", trust_coefficient, above=0.0
        )
        self.exclude = _checked_names(exclude)
        self._adapted: list[bool] = []

    def build(self, variables: Sequence[Any]) -> None:
        """Notes which variables to adapt, and creates the velocities."""
        if not self.built:
            self._adapted = [
                len(variable.shape) > 1 and variable.name not in self.exclude
                for variable in variables
            ]
        super().build(variables)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Updates one variable; see `keras.optimizers.Optimizer`."""
        if self._adapted[self._get_variable_index(variable)]:
            gradient = self._adapt(tf.convert_to_tensor(gradient), variable)
        super().update_step(gradient, variable, learning_rate)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments as plain data."""
        return {
            **super().get_config(),
            "weight_decay": self.decay,
            "trust_coefficient": self.trust_coefficient,
            "exclude": list(self.exclude),
        }

    def _adapt(self, gradient: tf.Tensor, variable: Any) -> tf.Tensor:
        """Returns the gradient with decay, of the length that the weights give it."""
        weights = tf.cast(tf.convert_to_tensor(variable), tf.float32)
        gradient = tf.cast(gradient, tf.float32)
        size, slope = tf.norm(weights), tf.norm(gradient)
        usual = tf.logical_and(size > 0, slope > 0)
        divisor = tf.where(usual, slope + self.decay * size, 1.0)
        part = self.trust_coefficient * size / divisor
        return tf.where(usual, part * (gradient + self.decay * weights), gradient)


def _checked_names(names: Any) -> tuple[str, ...]:
    listed = isinstance(names, list | tuple)
    if listed and all(isinstance(name, str) for name in names):
        return tuple(names)
    raise ValueError(
        explain(
            "Wrong exclude",
            received=repr(names),
            expected="a list of variables' names",
            hint=f"exclude=[{names!r}]"
            if isinstance(names, str)
            else "Leave it out: bias, gamma and beta.",
        )
    )
