"""The private Keras names that tfdist relies on, in one place, checked before use.

Checked against Keras 3.8 to 3.15. If Keras renames one of them, attaching fails with
an error that says so; nothing trains on without being synchronised.
"""

from __future__ import annotations

from typing import Any

import keras
from keras.src.backend.common import global_state
from keras.src.random import seed_generator

from tfdist.errors import TfdistError, explain

# owner of the name -> the names
OPTIMIZER = (
    "_all_reduce_sum_gradients",
    "_apply_weight_decay",
    "_backend_apply_gradients",
    "_backend_update_step",
    "_clip_gradients",
    "_distribution_strategy",
    "_get_variable_index",
    "_trainable_variables",
)
RATE = ("_iterations", "_learning_rate")
MODEL = (
    "_aggregate_additional_loss",
    "_compile_loss",
    "_get_call_context",
    "_loss_tracker",
    "_maybe_reset_call_context",
)
BUILD = ("_maybe_symbolic_build", "_symbolic_build")
COMPILE_LOSS = ("_flat_losses", "_metrics")
EPOCHS = ("_get_metrics_result_or_logs", "_initial_epoch")
LOOP = (
    "_current_iterator",
    "_distributed_dataset",
    "_enumerate_iterator",
    "_get_iterator",
    "_num_batches",
    "_steps_seen",
    "catch_stop_iteration",
    "data_adapter",
    "steps_per_epoch",
    "steps_per_execution",
)
LOSS_SCALE = ("_stateful_handle_finite_grads", "_stateful_handle_non_finite_grads")
LAYER = ("_flatten_layers", "_non_trainable_variables")


def require(owner: Any, names: tuple[str, ...]) -> None:
    """Raises `TfdistError` if `owner` lacks one of the names."""
    missing = [name for name in names if not hasattr(owner, name)]
    if missing:
        raise TfdistError(
            explain(
                f"This Keras has no {type(owner).__name__}.{missing[0]}, on which "
                "tfdist depends",
                received=f"keras {keras.__version__}",
                expected="keras 3.8 to 3.15, against which tfdist was tested",
                hint="pip install 'keras>=3.8,<3.16', or a newer tfdist.",
            )
        )


def innermost(optimizer: Any) -> Any:
    """Returns the optimizer inside all wrappers such as LossScaleOptimizer."""
    while hasattr(optimizer, "inner_optimizer"):
        optimizer = optimizer.inner_optimizer
    return optimizer


def strategy_of(optimizer: Any) -> Any:
    """Returns the strategy under which an optimizer was created."""
    return innermost(optimizer)._distribution_strategy


def rate_of(optimizer: Any) -> Any:
    """Returns what gives an optimizer its rate: a variable, schedule or function."""
    return innermost(optimizer)._learning_rate


def steps_of(optimizer: Any) -> int:
    """Returns how many batches an optimizer has seen: several make one update."""
    return int(innermost(optimizer)._iterations.numpy())


def variables_of(optimizer: Any) -> list[Any]:
    """Returns an optimizer's variables, also of Horovod's own optimizers.

    Those of horovod 0.28.1 call what is a property in Keras 3 (since horovod#3907).
    """
    if optimizer is None:  # a model that trains itself
        return []
    try:
        return list(optimizer.variables)
    except TypeError:
        return list(keras.optimizers.Optimizer.variables.fget(optimizer))


def accumulators_of(optimizer: Any) -> list[Any]:
    """Returns what an optimizer has summed since its last update; often nothing."""
    return list(getattr(innermost(optimizer), "_accumulated_gradients", ()))


def keras_mask(tensor: Any) -> Any:
    """Returns the mask that a layer attached to its output, or None."""
    return getattr(tensor, "_keras_mask", None)


def history_of(tensor: Any) -> tuple[Any, int, int]:
    """Returns a KerasTensor's operation, the number of its call, and of the output."""
    operation, node, place = tensor._keras_history
    return operation, node, place


def is_in_layer() -> bool:
    """Returns whether this thread is in a layer's `call`."""
    return global_state.get_global_attribute("current_call_ctx") is not None


def note_compiled(model: Any, name: str, value: Any) -> None:
    """Replaces an argument of `compile` in what a saved model is compiled with."""
    noted = getattr(model, "_compile_config", None)
    if noted is not None and name in noted.config:
        noted.config[name] = value


def set_policy(layer: Any, policy: keras.DTypePolicy) -> None:
    """Gives a layer a dtype policy of its own.

    Keras's setter writes into a map that the layer shares with others, and Keras 3.8
    takes a layer's path in it for a pattern that also fits its children's.
    """
    if isinstance(layer.dtype_policy, keras.dtype_policies.DTypePolicyMap):
        layer._dtype_policy = policy
    layer.dtype_policy = policy


def global_seed_generator(create: bool = False) -> Any:
    """Returns what Keras draws from where no seed is given; None before the first draw.

    Args:
        create: Whether to make it if it is not there yet.
    """
    if create:
        return seed_generator.global_seed_generator()
    # Keras 3.8 has no name for the name.
    name = getattr(seed_generator, "GLOBAL_SEED_GENERATOR", "global_seed_generator")
    return global_state.get_global_attribute(name)


def made_untrainable(layer: Any) -> list[Any]:
    """Returns a layer's own variables that no gradient has ever been meant for.

    Frozen weights are not among them.
    """
    return list(layer._non_trainable_variables)


def statistics_of(layer: Any) -> list[Any]:
    """Returns what a layer learns without gradients, such as moving averages."""
    return [
        variable
        for variable in made_untrainable(layer)
        if variable.dtype.startswith(("float", "bfloat"))
    ]


def loss_module() -> Any:
    """Returns the module in which Keras's losses divide by the number of replicas."""
    from keras.src.losses import loss

    require(loss, ("scale_loss_for_distribution",))
    return loss


def epoch_iterator_class() -> Any:
    """Returns the class of Keras's loops over the batches of `fit` and `evaluate`."""
    from keras.src.backend.tensorflow import trainer

    require(trainer, ("TFEpochIterator",))
    return trainer.TFEpochIterator
