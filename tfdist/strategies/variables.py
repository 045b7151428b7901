"""How Keras's variables are kept on replicas."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from packaging.version import Version

# Before 3.10, Keras asked for metric states that are summed when they are assigned;
# as it assigns `state + value`, each step would double what was counted before.
_METRICS_SUM_ON_ASSIGN = Version(keras.__version__) < Version("3.10")


def per_replica(creation: dict[str, Any]) -> dict[str, Any]:
    """Returns the arguments of `tf.Variable` with updates that stay on the replica.

    - Keras's iteration counters ask for the first replica's value at every
      assignment, which needs `merge_call` even inside a condition. All replicas
      compute the same value: each assigns its own.
    - Metric states are summed when they are read.

    Args:
        creation: What a variable creator is called with.
    """
    aggregation = creation.get("aggregation")
    if aggregation == tf.VariableAggregation.ONLY_FIRST_REPLICA:
        return {**creation, "aggregation": tf.VariableAggregation.NONE}
    if (
        _METRICS_SUM_ON_ASSIGN
        and aggregation == tf.VariableAggregation.SUM
        and not creation.get("trainable")
    ):
        return {**creation, "synchronization": tf.VariableSynchronization.ON_READ}
    return creation
