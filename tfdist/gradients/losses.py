"""Weights every term of a Keras loss by the replica's share of its denominator."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from tfdist.errors import explain
from tfdist.gradients import keras_names, shares, waiting
from tfdist.gradients.collectives import replicas

# These sum over the examples; Keras 3 nevertheless divides them by the number of
# replicas, as it does with terms that are means.
_SUMMING_REGULARIZERS = (
    keras.regularizers.L1,
    keras.regularizers.L2,
    keras.regularizers.L1L2,
)


def denominator(loss: Any, y_pred: Any, sample_weight: Any) -> tf.Tensor | None:
    """Returns what a Keras loss divides by, where that is not the example count.

    Args:
        loss: A `keras.losses.Loss`.
        y_pred: The replica's predictions; their Keras mask, if any, is counted.
        sample_weight: The replica's sample weights, or None.

    Returns:
        A float32 scalar, or None if the loss divides by the number of examples.
    """
    mask = keras_names.keras_mask(y_pred)
    weighted_mean = loss.reduction == "mean_with_sample_weight"
    if mask is None and (sample_weight is None or not weighted_mean):
        return None
    if not weighted_mean or sample_weight is None:
        return tf.reduce_sum(tf.cast(mask, tf.float32))
    sample_weight = tf.cast(sample_weight, tf.float32)
    if mask is not None:
        mask = tf.cast(mask, tf.float32)
        while sample_weight.shape.rank < mask.shape.rank:
            sample_weight = sample_weight[..., tf.newaxis]
        while mask.shape.rank < sample_weight.shape.rank:
            mask = mask[..., tf.newaxis]
        sample_weight = sample_weight * mask
    return tf.reduce_sum(sample_weight)


def _is_mean(loss: Any) -> bool:
    return getattr(loss, "reduction", "mean") not in ("sum", "none", None)


class _Recorder:
    """Stands for a loss while its arguments are collected; costs nothing."""

    def __init__(self, loss: Any, calls: list[Any]) -> None:
        self._loss, self._calls = loss, calls

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        self._calls.append((self._loss, y_true, y_pred, sample_weight))
        return tf.zeros(())


class _Weighted:
    """A loss times the replica's weight for it."""

    def __init__(self, loss: Any, weight: tf.Tensor | float) -> None:
        self._loss, self._weight = loss, weight

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        value = self._loss(y_true, y_pred, sample_weight)
        if tuple(value.shape) == (0,):
            # Keras does not reduce a batch that it knows to be empty.
            value = tf.reduce_sum(value)
        return value * tf.cast(self._weight, value.dtype)


class WeightedCompileLoss:
    """A model's compiled losses, each term weighted; delegates all else."""

    def __init__(self, compile_loss: Any) -> None:
        keras_names.require(compile_loss, keras_names.COMPILE_LOSS)
        self._compile_loss = compile_loss

    def __getattr__(self, name: str) -> Any:
        return getattr(self._compile_loss, name)

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Returns the weighted loss of this replica; see `CompileLoss`."""
        share = shares.current()
        if share is None:
            return self._compile_loss(y_true, y_pred, sample_weight)
        if not self._compile_loss.built:
            self._compile_loss.build(y_true, y_pred)
        calls = self._record(y_true, y_pred, sample_weight)
        weights = _term_weights(share, calls)
        with (
            share.weighing(),
            self._losses_replaced(
                lambda position, loss: _Weighted(loss, weights[position])
            ),
        ):
            return self._compile_loss(y_true, y_pred, sample_weight)

    def _record(self, y_true: Any, y_pred: Any, sample_weight: Any) -> list[Any]:
        """Returns (loss, y_true, y_pred, sample_weight) of each term, as Keras pairs.

        Keras resolves the structures itself: its losses are run once as recorders,
        without the metrics that follow each term.
        """
        calls: list[Any] = []
        metrics = self._compile_loss._metrics
        self._compile_loss._metrics = [None] * len(self._compile_loss._flat_losses)
        try:
            with self._losses_replaced(lambda _, loss: _Recorder(loss, calls)):
                self._compile_loss(y_true, y_pred, sample_weight)
        finally:
            self._compile_loss._metrics = metrics
        return calls

    @contextlib.contextmanager
    def _losses_replaced(self, replace: Callable[[int, Any], Any]) -> Iterator[None]:
        terms = self._compile_loss._flat_losses
        self._compile_loss._flat_losses = [
            term._replace(loss=replace(position, term.loss))
            for position, term in enumerate(terms)
        ]
        try:
            yield
        finally:
            self._compile_loss._flat_losses = terms


def _term_weights(share: shares.Shares, calls: list[Any]) -> list[Any]:
    """Returns the weight of each term of the loss; one collective at most."""
    counts = {
        position: count
        for position, (loss, _, y_pred, sample_weight) in enumerate(calls)
        if _is_mean(loss)
        and (count := denominator(loss, y_pred, sample_weight)) is not None
    }
    counted = dict(zip(counts, share.weights(list(counts.values())), strict=True))
    weights = []
    for position, (loss, *_) in enumerate(calls):
        weight: Any = 1.0
        if _is_mean(loss):
            weight = counted.get(position)
            if weight is None:
                weight = share.example_weight()
                weight = 1.0 if weight is None else weight
            weight = weight / replicas()  # which Keras does not do meanwhile
        weights.append(weight)
    # They are summed while the forward pass computes the predictions.
    waiting.current().between([y_pred for _, _, y_pred, _ in calls], weights)
    return weights


def install() -> None:
    """Makes Keras's losses know of the replica's share, once in a process."""
    module = keras_names.loss_module()
    module.scale_loss_for_distribution = _unless_weighing(
        module.scale_loss_for_distribution
    )
    keras.losses.Loss.__call__ = weighted_call(keras.losses.Loss.__call__)
    mean = keras.metrics.Mean
    mean.update_state = _whole_batch_from_parts(mean.update_state)


def _whole_batch_from_parts(update_state: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `keras.metrics.Mean.update_state` that knows losses of a step.

    The result is the mean over all replicas, of values whose sum is the batch's loss.
    """

    @functools.wraps(update_state)
    def update(self: Any, values: Any, sample_weight: Any = None) -> Any:
        share = shares.current()
        if share is not None and share.is_part(values):
            weighted = sample_weight is not None
            values = share.own_mean(values) if weighted else values * replicas()
        return update_state(self, values, sample_weight=sample_weight)

    return update


def _unless_weighing(scale: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Returns Keras's division by the number of replicas; the weights contain it.

    Keras leaves out what the loss's own `call` has already reduced to a scalar, which
    shows only when it is called.
    """

    @functools.wraps(scale)
    def scale_unless_weighing(value: Any) -> Any:
        share = shares.current()
        return value if share is not None and share.is_weighing else scale(value)

    return scale_unless_weighing


def weighted_call(call: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `keras.losses.Loss.__call__`, weighted in steps of the user's own.

    There a loss object is called directly and divides by the replica's own count, as
    in a compiled loss, whose terms are weighted together instead. What the user
    divides, the user has to divide by the global count, as in tf.distribute.

    In a layer, which hands the value to `add_loss`, it is the mean over the replica's
    examples, as which Keras counts all that is added: in steps of Keras's own. Where
    the user adds up, a model may as well return what is to be differentiated.
    """

    @functools.wraps(call)
    def call_weighted(
        self: Any, y_true: Any, y_pred: Any, sample_weight: Any = None
    ) -> Any:
        share = shares.current()
        if share is None or share.is_weighing or replicas() == 1:
            return call(self, y_true, y_pred, sample_weight)
        with share.weighing():
            (weight,) = _term_weights(share, [(self, y_true, y_pred, sample_weight)])
            value = call(self, y_true, y_pred, sample_weight)
        value = value * tf.cast(weight, value.dtype)
        if value.shape.rank != 0:
            return value
        if share.keras_adds_losses and keras_names.is_in_layer():
            return share.own_mean(value)
        share.note_part(value)
        return value

    return call_weighted


def weigh_additional_loss(scale: Callable[[Any], Any], summed: list[Any]) -> Any:
    """Returns Keras's `_aggregate_additional_loss` with the replica's weight.

    Terms of `add_loss` count as means over the examples, as Keras's own division by
    the number of replicas takes them; regularisers of weights are equal on all
    replicas, and any weights that sum to the number of replicas leave them exact.

    Args:
        scale: The model's own method, which divides by the number of replicas.
        summed: Losses of this trace that are sums over the examples.
    """

    def aggregate(loss: Any) -> Any:
        share = shares.current()
        value = scale(loss)
        if share is None:
            return value
        if any(loss is term for term in summed):
            return value * replicas()
        weight = share.example_weight()
        return value if weight is None else value * tf.cast(weight, value.dtype)

    return aggregate


def recording_regularizer(regularizer: Any, summed: list[Any]) -> Any:
    """Returns an activity regulariser that notes its results in `summed`.

    Raises:
        ValueError: It is not known whether the regulariser sums or averages.
    """
    if not isinstance(regularizer, _SUMMING_REGULARIZERS):
        raise ValueError(
            explain(
                "This activity regularizer cannot be made exact on several replicas",
                received=type(regularizer).__name__,
                expected="L1, L2 or L1L2, which are known to sum over the examples",
                hint="Use one of them, or call self.add_loss() in a layer with a mean "
                "over the examples.",
            )
        )

    def regularize(output: Any) -> Any:
        summed.append(regularizer(output))
        return summed[-1]

    return regularize


def correct_tracker(update_state: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a loss tracker's `update_state` that is exact on uneven replicas.

    Keras weights each replica's value by the replica's examples. The values already
    carry a share of the batch, so that would count the share twice. What a step of the
    user's own passes as the loss gave it is left to `Mean`.
    """

    def update(value: Any, sample_weight: Any = None) -> Any:
        share = shares.current()
        weight = None
        if share is not None:
            share.loss_is_tracked = True
            weight = share.example_weight()
            if share.is_part(value):
                weight = None
        if weight is not None and sample_weight is not None:
            value = tf.math.divide_no_nan(value, tf.cast(weight, value.dtype))
        return update_state(value, sample_weight=sample_weight)

    return update


def noting_total(compute_loss: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a model's `compute_loss` that notes its results with the replica."""

    def compute(*args: Any, **kwargs: Any) -> Any:
        loss = compute_loss(*args, **kwargs)
        share = shares.current()
        if share is not None:
            share.note_part(loss)
        return loss

    return compute
