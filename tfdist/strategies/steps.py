"""What a Keras step needs on a replica, added while it is traced.

Everything is set on the model for the duration of one `strategy.run` and taken back:
weights of the loss terms, statistics that an empty replica must not touch, and logs
that agree on all replicas.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from tfdist.gradients import keras_names, lanes, losses, shares
from tfdist.gradients.collectives import replicas, sum_tensors
from tfdist.seeding import replica_seed

_ROLES = ("train_step", "test_step", "predict_step")


def model_of(fn: Callable[..., Any]) -> tuple[keras.Model, str] | None:
    """Returns (model, role) if `fn` is a bound step of a Keras model."""
    fn = inspect.unwrap(fn)
    owner, name = getattr(fn, "__self__", None), getattr(fn, "__name__", "")
    if isinstance(owner, keras.Model) and name in _ROLES:
        return owner, name
    return None


def replica_function(
    fn: Callable[..., Any], model: keras.Model | None, role: str, equal: bool
) -> Callable[..., Any]:
    """Returns `fn` as one replica is to run it.

    Args:
        fn: The user's or Keras's function.
        model: The Keras model whose step it is, if any.
        role: "train_step", "test_step", "predict_step", or "" for a custom loop.
        equal: Whether all replicas are known to have equally many rows.
    """

    def call(*args: Any, **kwargs: Any) -> Any:
        replica = _replica_number()
        args, kwargs = tf.nest.map_structure(_hide_emptiness, (args, kwargs))
        share = shares.Shares((args, kwargs), equal=equal, replica=replica)
        share.keras_adds_losses = _is_keras_own(model, role)
        with shares.entered(share):
            kept = _kept_statistics(model, share) if role == "train_step" else []
            outputs = fn(*args, **kwargs)
            for variable, before in kept:
                variable.assign(tf.where(share.has_examples(), variable, before))
            if model is not None and role in ("train_step", "test_step"):
                outputs = agreed_logs(model, outputs)
            return outputs

    return call


def _is_keras_own(model: keras.Model | None, role: str) -> bool:
    """Returns whether it is the step of Keras that ends in `compute_loss`."""
    if model is None or role not in ("train_step", "test_step"):
        return False
    return getattr(type(model), role) is getattr(keras.Model, role)


@contextlib.contextmanager
def instrumented(model: keras.Model | None) -> Iterator[None]:
    """Makes the model's losses aware of the replica."""
    with contextlib.ExitStack() as stack:
        if model is not None:
            for owner, name, value in _replacements(model):
                stack.enter_context(replaced(owner, name, value))
        yield


def agreed_logs(model: keras.Model, logs: Any) -> Any:
    """Returns logs that are equal on all replicas; one collective per dtype.

    Metrics are exact: their states are summed and the results computed from the
    sums, as if one process had seen all examples. The values of `compute_loss` and of
    loss objects, which hold the replica's share, are summed. Other scalars of a custom
    `train_step` are averaged, as Keras does. Vectors and tensors pass unchanged.
    """
    if replicas() == 1 or not isinstance(logs, dict):
        return logs
    share = shares.current()
    variables = model.metrics_variables
    scalars = [value for value in tf.nest.flatten(logs) if _is_scalar(value)]
    states = [tf.convert_to_tensor(variable.value) for variable in variables]
    sums = sum_tensors([*states, *scalars], lanes.LOGS)
    with keras.StatelessScope(
        state_mapping=list(zip(variables, sums[: len(states)], strict=True))
    ):
        exact = type(model).get_metrics_result(model)
    if share is not None and not share.loss_is_tracked:
        exact.pop("loss", None)
    agreed = {
        id(value): total
        if share is not None and share.is_part(value)
        else tf.cast(total / replicas(), total.dtype)
        for value, total in zip(scalars, sums[len(states) :], strict=True)
    }

    def resolve(key: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: resolve(name, part) for name, part in value.items()}
        return exact.get(key, agreed.get(id(value), value))

    return resolve("", logs)


def _is_scalar(value: Any) -> bool:
    return tf.is_tensor(value) and value.shape.rank == 0 and value.dtype != tf.string


def _hide_emptiness(value: Any) -> Any:
    """Keeps a batch that is known to be empty from being treated specially.

    Keras does not reduce the loss of such a batch, so that one replica would return
    a vector and the others scalars.
    """
    if tf.executing_eagerly() or not tf.is_tensor(value):
        return value
    if not isinstance(value, tf.Tensor) or value.shape.rank in (None, 0):
        return value
    if value.shape[0] != 0:
        return value
    return tf.compat.v1.placeholder_with_default(value, [None, *value.shape[1:]])


def _replica_number() -> int:
    number = tf.distribute.get_replica_context().replica_id_in_sync_group
    return int(tf.get_static_value(number)) if tf.is_tensor(number) else int(number)


def _kept_statistics(
    model: keras.Model | None, share: shares.Shares
) -> list[tuple[Any, tf.Tensor]]:
    """Returns per-replica statistics and their values before the step.

    The mean over no examples is NaN: an empty replica must keep its old statistics.
    """
    if model is None or share.equal:
        return []
    return [
        (variable, tf.identity(variable.value))
        for variable in replica_statistics(model)
    ]


def replica_statistics(model: keras.Model) -> list[Any]:
    """Returns what layers learn on each replica without gradients.

    Such as the moving statistics of plain (not synchronised) BatchNormalization, and
    what layers of users' own keep.
    """
    keras_names.require(model, keras_names.LAYER)
    return [
        variable
        for layer in model._flatten_layers()
        if not getattr(layer, "synchronized", False)
        for variable in keras_names.statistics_of(layer)
    ]


def _replacements(model: keras.Model) -> Iterator[tuple[Any, str, Any]]:
    """Yields (object, attribute, value for the duration of the step)."""
    if replicas() == 1:
        return
    keras_names.require(model, keras_names.MODEL)
    summed: list[Any] = []
    for layer in model._flatten_layers():
        if layer.activity_regularizer is not None:
            yield (
                layer,
                "activity_regularizer",
                losses.recording_regularizer(layer.activity_regularizer, summed),
            )
    yield (
        model,
        "_aggregate_additional_loss",
        losses.weigh_additional_loss(model._aggregate_additional_loss, summed),
    )
    yield model, "compute_loss", losses.noting_total(model.compute_loss)
    trackers = [model._loss_tracker]
    if model._compile_loss is not None:
        yield model, "_compile_loss", losses.WeightedCompileLoss(model._compile_loss)
        trackers.extend(model._compile_loss.metrics)
    for tracker in trackers:
        if tracker is not None:
            yield tracker, "update_state", losses.correct_tracker(tracker.update_state)


def replica_draws(draw: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `SeedGenerator.next` with other draws on every replica.

    The generator's state stays equal everywhere, so files and comparisons of replicas
    need not know; replica 0 draws what one process draws.
    """

    @functools.wraps(draw)
    def draw_for_replica(self: Any, *args: Any, **kwargs: Any) -> tf.Tensor:
        seed = draw(self, *args, **kwargs)
        share = shares.current()
        if share is None or share.replica == 0:
            return seed
        key = [replica_seed(word, share.replica) for word in (0, 1)]
        return tf.bitwise.bitwise_xor(seed, tf.constant(key, seed.dtype))

    return draw_for_replica


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Sets an attribute past Keras's tracking, and restores it."""
    attributes = vars(owner)
    missing = object()
    before = attributes.get(name, missing)
    attributes[name] = value
    try:
        yield
    finally:
        if before is missing:
            del attributes[name]
        else:
            attributes[name] = before
