"""Model, loss and optimizer as every Keras program makes them."""

from __future__ import annotations

from typing import Any

import keras

from benchmarks.network import models

WORD_BYTES = 8  # an int64: which row of an embedding


def prepared(name: str) -> tuple[Any, Any, Any]:
    """Returns model, loss and optimizer; the weights are the same on all ranks."""
    keras.utils.set_random_seed(models.SEED)
    task = models.task(name)
    model = models.build(name)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return model, loss, keras.optimizers.SGD(task.learning_rate, momentum=0.9)


def facts(name: str, model: Any, ranks: int) -> dict[str, Any]:
    """Returns what the formulas for the bytes need."""
    task = models.task(name)
    dense, sparse = split_variables(model)
    rows = task.batch * task.words
    return {
        "shapes": [list(variable.shape) for variable in dense],
        # A sparse gradient's rows go to all others, whatever the compression.
        "sparse": (ranks - 1)
        * sum(rows * (4 * v.shape[1] + WORD_BYTES) for v in sparse),
    }


def split_variables(model: Any) -> tuple[list[Any], list[Any]]:
    """Returns the variables with dense gradients, and those with sparse ones."""
    groups: tuple[list[Any], list[Any]] = ([], [])
    for variable in model.trainable_variables:
        groups[variable.name == "embeddings"].append(variable)
    return groups
