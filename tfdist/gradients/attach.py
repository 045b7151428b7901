"""Hangs the exact gradient path on a user's own optimizer instance.

Class, configuration and checkpoint of the optimizer stay what they were: a saved
model loads where tfdist is not installed.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import keras
import tensorflow as tf

from tfdist.errors import TfdistError, explain
from tfdist.gradients import keras_names, shares, waiting
from tfdist.gradients.collectives import all_true, replicas
from tfdist.gradients.method import PLAIN, Method
from tfdist.gradients.reduction import Gradients, Kind, kinds_of

_MARK = "_tfdist_gradient_path"
_paths: weakref.WeakSet[GradientPath] = weakref.WeakSet()


def attach(
    optimizer: keras.optimizers.Optimizer, model: keras.Model | None = None
) -> keras.optimizers.Optimizer:
    """Makes `optimizer` apply the gradient of the global batch, on every replica.

    Under a tfdist strategy, `fit` and the first `apply` in `strategy.run` do this by
    themselves. Call it for a loop of your own, inside the strategy's scope: given the
    model, all its weights start from rank 0's. Every micro-step then goes through:
    unscaling by the loss scale, a finite flag agreed by all replicas, local
    accumulation; and every optimizer step through: the sum over replicas, clipping of
    that sum (so that it equals clipping in one process), the update, constraints and
    moving averages.

    The gradients are summed as they come. Keras's loss objects weight themselves by
    the replica's share of the batch; what a loop averages itself has to be divided by
    the size of the global batch, as everywhere in `tf.distribute`.

    Args:
        optimizer: Any Keras optimizer, also inside a `LossScaleOptimizer`.
        model: The model it trains; one optimizer serves one model.

    Returns:
        The same optimizer.

    Raises:
        ValueError: The optimizer was created outside the strategy's scope, or
            already trains another model.
        TfdistError: This version of Keras lacks a name that the path relies on.

    Example:
        >>> optimizer = tfdist.gradients.attach(keras.optimizers.SGD(0.1), model)
        >>> def step(x, y):
        ...     with tf.GradientTape() as tape:
        ...         loss = loss_object(y, model(x, training=True))
        ...     weights = model.trainable_variables
        ...     optimizer.apply(tape.gradient(loss, weights), weights)
        >>> strategy.run(step, args=next(batches))
    """
    path = path_of(optimizer)
    if path is not None:
        path.serve(model)
        path.move_to(optimizer)
        path.found = False
        return optimizer
    base = keras_names.innermost(optimizer)
    keras_names.require(base, keras_names.OPTIMIZER)
    path = GradientPath(optimizer, base, model)
    # Bypasses Keras's attribute tracking, which would look for variables in it.
    object.__setattr__(base, _MARK, path)
    _paths.add(path)
    return optimizer


def attaching(apply: Callable[..., Any]) -> Callable[..., Any]:
    """Returns an optimizer class's `apply` that attaches where nobody else has.

    For optimizers in a loop or a `train_step` of a user's own: Keras's path clips and
    looks for overflow before it sums, and takes no weights from rank 0.

    Args:
        apply: A method of `keras.optimizers.Optimizer` or LossScaleOptimizer.
    """

    @functools.wraps(apply)
    def apply_attached(self: Any, grads: Gradients, *args: Any, **kwargs: Any) -> Any:
        # The outermost optimizer comes first; those within it have its path then.
        is_new = path_of(self) is None and shares.current() is not None
        if not is_new or replicas() == 1:
            return apply(self, grads, *args, **kwargs)
        path = cast(GradientPath, path_of(attach(self)))
        path.found = True
        # Not `self.apply`: what a subclass does before this has been done.
        own_apply = functools.partial(apply, self)
        return path.checked(own_apply, grads, *args, **kwargs)

    return apply_attached


def attached(strategy: Any) -> list[GradientPath]:
    """Returns the paths under `strategy`, in order."""
    paths = sorted(_paths, key=lambda path: path.number)
    return [path for path in paths if path.strategy is strategy]


def path_of(optimizer: Any) -> GradientPath | None:
    """Returns the path that `attach` hung on an optimizer, or on one inside of it."""
    return getattr(keras_names.innermost(optimizer), _MARK, None)


@contextlib.contextmanager
def plain_afterwards(model: keras.Model) -> Iterator[None]:
    """Takes back at the end what callbacks have changed about a model's path."""
    try:
        yield
    finally:
        path = path_of(model.optimizer)
        if path is not None and path.method is not PLAIN:
            path.method = PLAIN
            model.train_function = None  # traced with the other one


class GradientPath:
    """The hooks on one optimizer and what they remember while tracing.

    Attributes:
        number: Counts the paths of a process; equal on all ranks of one script.
        optimizer: The user's optimizer, the outermost one.
        found: Whether `strategy.run` has met the optimizer, and nobody named it.
        method: How gradients become updates. Callbacks replace it, for one `fit`; a
            change has an effect on what is traced afterwards.
        kinds: The gradients as they were when an update was last traced.
        steps_per_update: Training steps for one update of the weights.
    """

    _numbers = itertools.count()

    def __init__(self, optimizer: Any, base: Any, model: Any) -> None:
        self.number = next(self._numbers)
        self.optimizer = optimizer
        self.found = False
        self.method: Method = PLAIN
        self.kinds: tuple[Kind, ...] | None = None
        self._trained: list[Any] = []  # the model's weights when kinds were noted
        self.steps_per_update: int = base.gradient_accumulation_steps or 1
        self._model = weakref.ref(model) if model is not None else None
        self._reductions = 0
        self._variables: Sequence[Any] = ()  # of the update that is being traced
        self._go_on: tf.Tensor | None = None  # whether it is to be made
        self._base = base
        self._clip: Callable[[Gradients], Gradients] = base._clip_gradients
        self._apply_filtered = base._backend_apply_gradients
        # Keras clips, then sums over replicas. Clipping has to see the sum, so the
        # sum moves to the front of clipping and Keras's own becomes the identity.
        base._clip_gradients = self._sum_and_clip
        base._all_reduce_sum_gradients = list
        base._backend_apply_gradients = self._note_variables
        base._apply_weight_decay = self._unless_skipped(base._apply_weight_decay)
        base._backend_update_step = self._unless_skipped(base._backend_update_step)
        self._enter(optimizer)

    @property
    def model(self) -> Any:
        """The model that the optimizer trains, if it is known and still exists."""
        return self._model() if self._model is not None else None

    @property
    def strategy(self) -> Any:
        """The strategy under which the optimizer was created."""
        return keras_names.strategy_of(self._base)

    def forget_if_frozen(self) -> bool:
        """Forgets the kinds if layers were frozen or unfrozen since; says whether."""
        now, then = self._trainable(), self._trained
        if self.kinds is None or list(map(id, now)) == list(map(id, then)):
            return False
        self.kinds = None
        return True

    def move_to(self, optimizer: Any) -> None:
        """Goes on with another wrapper around the base, with one less, or one more."""
        if optimizer is self.optimizer:
            return
        del self.optimizer.apply
        for wrapper in _loss_scalers(self.optimizer):
            del wrapper.check_finite
        self.optimizer = optimizer
        self._enter(optimizer)

    def serve(self, model: Any) -> None:
        """Notes the model, or refuses a second one."""
        known = self.model
        if model is None or known is model:
            return
        if known is not None:
            raise ValueError(
                explain(
                    "One optimizer cannot train two models",
                    received=f"the optimizer of model {known.name!r} for "
                    f"model {model.name!r}",
                    expected="one optimizer for each model",
                    hint="Create another optimizer: "
                    "optimizer.__class__.from_config(optimizer.get_config()).",
                )
            )
        self._model = weakref.ref(model)

    def _trainable(self) -> list[Any]:
        return [] if self.model is None else list(self.model.trainable_variables)

    def _enter(self, optimizer: Any) -> None:
        """Hooks what is called first, and the wrappers down to the base."""
        optimizer.apply = functools.partial(self.checked, optimizer.apply)
        for wrapper in _loss_scalers(optimizer):
            _agree_on_finite(wrapper)

    def checked(
        self,
        apply: Callable[..., Any],
        grads: Gradients,
        trainable_variables: Any = None,
    ) -> Any:
        """Calls the optimizer's own `apply`, with its arguments, and looks at it."""
        _check_scope(self._base)
        before = self._reductions
        result = apply(grads, trainable_variables)
        # Eagerly, an accumulating micro-step rightly sums nothing.
        traced = not tf.executing_eagerly() and any(g is not None for g in grads)
        if traced and self._reductions == before:
            raise TfdistError(
                explain(
                    "The optimizer updated the weights without summing the gradients "
                    "over the replicas",
                    received=f"keras {keras.__version__}, an optimizer that does not "
                    "call _clip_gradients",
                    expected="an optimizer that keeps Keras's own `apply`",
                    hint="Override update_step instead of apply in your optimizer.",
                )
            )
        self.method.after_step()
        return result

    def _note_variables(self, gradients: Gradients, variables: Sequence[Any]) -> Any:
        """Learns what Keras, past its filters, updates with these gradients."""
        self._variables = variables
        return self._apply_filtered(gradients, variables)

    def _sum_and_clip(self, gradients: Gradients) -> Gradients:
        self._reductions += 1
        places = [self._base._get_variable_index(v) for v in self._variables]
        self.kinds = kinds_of(gradients, self._variables, places)
        self._trained = self._trainable()
        reduced = self.method.reduction(gradients, self.kinds)
        self._go_on = reduced.finite
        waiting.current().between(gradients, reduced.gradients)
        return self._clip(reduced.gradients)

    def _unless_skipped(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> None:
            if self._go_on is None:
                method(*args)
            else:
                keras.ops.cond(self._go_on, lambda: method(*args), lambda: None)

        return call


def _loss_scalers(optimizer: Any) -> Iterator[Any]:
    """Yields the LossScaleOptimizers around the innermost optimizer."""
    while hasattr(optimizer, "inner_optimizer"):
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            yield optimizer
        optimizer = optimizer.inner_optimizer


def _agree_on_finite(optimizer: Any) -> None:
    """Lets all replicas skip a step if the gradients overflow on one of them.

    Keras 3 checks the local gradients (its comment says that they are summed, which
    was true in tf.keras): one replica would update and the others not.
    """
    check_locally = optimizer.check_finite

    def check_finite(gradients: Gradients) -> tf.Tensor:
        return all_true(check_locally(gradients))

    optimizer.check_finite = check_finite


def _check_scope(base: Any) -> None:
    strategy = tf.distribute.get_strategy()
    home = keras_names.strategy_of(base)
    if home is not strategy:
        raise ValueError(
            explain(
                "The optimizer was created outside the strategy's scope",
                received=f"an optimizer of {type(home).__name__}",
                expected=f"one created under {type(strategy).__name__}",
                hint="Create model and optimizer inside `with strategy.scope():`.",
            )
        )
