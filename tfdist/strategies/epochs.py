"""What happens between two epochs: exact results, and averaged statistics."""

from __future__ import annotations

import contextlib
import logging
import weakref
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from tfdist import cluster
from tfdist.gradients import keras_names, shares
from tfdist.gradients.attach import path_of
from tfdist.strategies import steps, synchronize

_logger = logging.getLogger("tfdist")
_noted: weakref.WeakSet[Any] = weakref.WeakSet()


@contextlib.contextmanager
def results_of_all_ranks(strategy: Any, model: Any, averaging: bool) -> Iterator[None]:
    """Makes `model.get_metrics_result()` exact over all ranks, in one collective.

    With `averaging`, replicas that have trained on their own settle where Keras ends an
    epoch, before validation and callbacks, and what layers learn without gradients
    (moving statistics) becomes the mean over all replicas, so that every rank
    validates, and the chief saves, that.
    """
    keras_names.require(model, keras_names.EPOCHS)
    own_results = type(model).get_metrics_result
    own_end = type(model)._get_metrics_result_or_logs

    def end(logs: Any) -> Any:
        # A rank whose data ended sooner is found here, before it meets a collective.
        strategy.agree(f"the end of {strategy.phase_name()}")
        if averaging:
            path = path_of(model.optimizer)
            if path is not None:
                path.method.settle()
            statistics = steps.replica_statistics(model)
            if statistics:
                synchronize.average(strategy, statistics)
        return own_end(model, logs)

    def results() -> Any:
        # Keras also asks inside a step, and while it builds the model symbolically.
        if shares.current() is not None or not tf.executing_eagerly():
            return own_results(model)
        if cluster.size() == 1:
            return own_results(model)
        strategy.agree("the metrics' results")
        variables = model.metrics_variables
        sums = synchronize.sums(strategy, variables)
        with keras.StatelessScope(
            state_mapping=list(zip(variables, sums, strict=True))
        ):
            return own_results(model)

    with (
        steps.replaced(model, "get_metrics_result", results),
        steps.replaced(model, "_get_metrics_result_or_logs", end),
    ):
        yield


def note_plain_batch_norm(strategy: Any, model: Any) -> None:
    """Says once for each model that its batch statistics are per replica."""
    if strategy.num_replicas_in_sync == 1 or model in _noted or not cluster.is_chief():
        return
    _noted.add(model)
    plain = [
        layer.name
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization) and not layer.synchronized
    ]
    if plain:
        _logger.warning(
            "BatchNormalization computes its statistics on each replica's part of the "
            "batch (%s), so results differ from one process; the moving averages are "
            "averaged over the replicas at the end of every epoch. HINT: "
            "tfdist.synchronize_batch_norm(model) uses the whole batch.",
            ", ".join(plain),
        )
