"""Which variables start from rank 0's values, and what has to be equal before."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Sequence
from typing import Any

from tfdist.errors import explain
from tfdist.gradients import keras_names


def variables_of(model: Any, optimizer: Any) -> list[Any]:
    """Returns all variables that decide the training, as far as they exist yet."""
    weights = []
    if model is not None:
        metrics = {id(variable) for variable in model.metrics_variables}
        weights = [v for v in model.variables if id(v) not in metrics]
        if not model.built:
            return []
    elif optimizer.built:
        weights = keras_names.innermost(optimizer)._trainable_variables
    return [*weights, *([] if optimizer is None else optimizer.variables)]


class CommonVariables:
    """The variables that have rank 0's values on all ranks, as long as they exist."""

    def __init__(self, variables: Sequence[Any] = ()) -> None:
        # By identity: a Keras variable's `==` is a tensor's.
        self._known = weakref.WeakValueDictionary[int, Any]()
        self.add(variables)

    def lacking(self, model: Any, optimizer: Any) -> list[Any]:
        """Returns what of a training is still to be sent; see `variables_of`."""
        return [
            variable
            for variable in variables_of(model, optimizer)
            if self._known.get(id(variable)) is None
            # What a tf.function creates has no value before its first call.
            and bool(variable.value.is_initialized())
        ]

    def add(self, variables: Sequence[Any]) -> None:
        """Notes variables that were sent."""
        self._known.update((id(variable), variable) for variable in variables)

    def remove(self, variables: Sequence[Any]) -> None:
        """Forgets that variables were sent."""
        for variable in variables:
            self._known.pop(id(variable), None)

    def copy(self) -> CommonVariables:
        """Returns an equal set with a life of its own."""
        return CommonVariables(list(self._known.values()))


def fingerprint(variables: Sequence[Any], optimizer: Any) -> dict[str, str]:
    """Returns what has to be equal on all ranks before weights can be sent."""
    details = {
        f"variable {number}": f"{tuple(variable.shape)} {variable.dtype}"
        for number, variable in enumerate(variables)
    }
    return {**details, "optimizer": type(optimizer).__name__}


def refuse_unequal_weights(strategy: Any, optimizer: Any) -> None:
    """Raises ValueError on all ranks if a loop's first step began unequally.

    A step that is traced is sent rank 0's weights before it runs. One that runs
    eagerly was made by the time its optimizer is known: the same gradient leaves equal
    weights equal, and others as different as they were.

    Args:
        strategy: The strategy of several processes; all of them call this.
        optimizer: What has made the step.
    """
    content = hashlib.sha256()
    for weight in keras_names.innermost(optimizer)._trainable_variables:
        content.update(weight.numpy().tobytes())
    number = int.from_bytes(content.digest()[:7], "big")
    if len(set(strategy.gather_integers(number))) > 1:
        raise ValueError(
            explain(
                "The first step of the loop was made from different weights on each "
                "rank",
                received="an optimizer that strategy.run met in an eager step",
                expected="weights of rank 0 on all ranks before the first step",
                hint="Call tfdist.gradients.attach(optimizer, model) before the loop, "
                "or strategy.run inside a tf.function.",
            )
        )
