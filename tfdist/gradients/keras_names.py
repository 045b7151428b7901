"""The private Keras names that tfdist relies on, in one place, checked before use.

Checked against Keras 3.8 to 3.15. If Keras renames one of them, attaching fails with
an error that says so; nothing trains on without being synchronised.
"""

from __future__ import annotations

from typing import Any

import keras

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
MODEL = ("_aggregate_additional_loss", "_compile_loss", "_loss_tracker")
BUILD = ("_maybe_symbolic_build", "_symbolic_build")
COMPILE_LOSS = ("_flat_losses", "_metrics")
LOSS_SCALE = ("_stateful_handle_finite_grads", "_stateful_handle_non_finite_grads")


def require(owner: Any, names: tuple[str, ...]) -> None:
    """Raises `TfdistError` if `owner` lacks one of the names."""
    missing = [name for name in names if not hasattr(owner, name)]
    if missing:
        raise TfdistError(
            explain(
                f"This Keras has no {type(owner).__name__}.{missing[0]}, on which "
                "exact distributed gradients depend",
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


def keras_mask(tensor: Any) -> Any:
    """Returns the mask that a layer attached to its output, or None."""
    return getattr(tensor, "_keras_mask", None)


def history_of(tensor: Any) -> tuple[Any, int, int]:
    """Returns a KerasTensor's operation, the number of its call, and of the output."""
    operation, node, place = tensor._keras_history
    return operation, node, place


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
