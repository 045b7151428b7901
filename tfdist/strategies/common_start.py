"""Which variables start from rank 0's values, and what has to be equal before."""

from __future__ import annotations

import hashlib
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
