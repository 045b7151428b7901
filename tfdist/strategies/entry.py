"""Where Keras's public methods meet a strategy: fit, evaluate, predict and save.

Keras asks a strategy only for pieces. What concerns a whole call (do all ranks make
it, with the same arguments and data; is the model under the strategy at all; who
writes the files) needs the call itself, so the first strategy of a process wraps
these public methods of `keras.Model`. Models under other strategies are untouched.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from tfdist import cluster
from tfdist.coordination import progress
from tfdist.errors import explain
from tfdist.gradients import keras_names, losses
from tfdist.gradients.attach import attaching, plain_afterwards
from tfdist.strategies import arguments as describe
from tfdist.strategies import chief_files, epochs, fits, order
from tfdist.strategies.steps import replaced, replica_draws
from tfdist.strategies.training import KerasTraining, Phase, refuse_jit

_WHOLE = ("fit", "evaluate", "predict")
_BATCH = ("train_on_batch", "test_on_batch", "predict_on_batch")

_strategy: weakref.ref[Any] | None = None  # the newest with more than one replica
_wrapped = False


def install(strategy: KerasTraining) -> None:
    """Notes the strategy and wraps Keras's methods, once in a process."""
    global _strategy, _wrapped
    if cluster.size() > 1:
        order.settle_global_seed(strategy)
    if strategy.num_replicas_in_sync > 1:
        _strategy = weakref.ref(strategy)
    if _wrapped:
        return
    for name in (*_WHOLE, *_BATCH):
        fits.wrap(name, _entered)
    fits.install()  # what it refuses, it refuses after the ranks have agreed
    chief_files.install()
    generator = keras.random.SeedGenerator
    generator.next = replica_draws(generator.next)
    losses.install()
    optimizers = keras.optimizers
    for optimizer in (optimizers.Optimizer, optimizers.LossScaleOptimizer):
        optimizer.apply = attaching(optimizer.apply)
    _count_batches()
    _wrapped = True


def _count_batches() -> None:
    """Tells `tfdist run`, where it started this process, of every batch."""
    watched = progress.installed()
    if watched is None:
        return
    for phase in ("train", "test", "predict"):
        hook = f"on_{phase}_batch_end"
        method = getattr(keras.callbacks.CallbackList, hook)
        setattr(keras.callbacks.CallbackList, hook, progress.counted(method, watched))


@contextlib.contextmanager
def _entered(call: fits.Call) -> Iterator[None]:
    model, strategy = call.model, call.model.distribute_strategy
    if not isinstance(strategy, KerasTraining):
        _refuse_outside(model)
        yield
        return
    refuse_jit(model)
    equal, details = False, None
    if call.name in _WHOLE:
        details = describe.details(call.arguments)
        replicas = strategy.num_replicas_in_sync
        equal = describe.batches_are_equal(call.arguments, replicas)
    with (
        strategy._phase(Phase(call.name, model, equal), details),
        progress.phase(single_step=call.name in _BATCH),
        contextlib.ExitStack() as stack,
    ):
        for prepared in _preparations(strategy, model, call.name):
            stack.enter_context(prepared)
        yield
        if call.name == "fit":
            # The chief may still be writing what the others are about to read.
            strategy.agree("the end of fit's callbacks")
    if call.name == "fit" and model.history.epoch and not model.history.history:
        describe.refuse_empty("a dataset whose length was not known")


def _preparations(strategy: Any, model: Any, name: str) -> Iterator[Any]:
    if name in ("fit", "evaluate"):
        yield _building_from_shapes(strategy, model)
        yield epochs.results_of_all_ranks(strategy, model, averaging=name == "fit")
    if name == "fit":
        yield plain_afterwards(model)
        epochs.note_plain_batch_norm(strategy, model)
        if cluster.size() > 1:
            yield order.shared_seed(strategy)


def _building_from_shapes(strategy: Any, model: Any) -> Any:
    """Makes Keras build the model from the data's shapes alone.

    Under a strategy, Keras 3 takes a batch for that: an epoch's first shuffle and a
    generator's first batches would be spent on it, unlike in one process.
    """
    keras_names.require(model, keras_names.BUILD)

    def build(iterator: Any = None, data_batch: Any = None) -> None:
        if iterator is None:
            with strategy.scope():
                model._symbolic_build(data_batch=data_batch)
        else:
            build_from_shapes(model, iterator)

    return replaced(model, "_maybe_symbolic_build", build)


def build_from_shapes(model: Any, loop: Any) -> None:
    """Makes the variables of a model, its metrics and its optimizer, as far as missing.

    Args:
        model: A compiled model.
        loop: Keras's, over the batches of a `fit` or `evaluate`.
    """
    keras_names.require(model, keras_names.BUILD)
    spec = loop.data_adapter.get_tf_dataset().element_spec
    batch = tf.nest.map_structure(_of_one_replica, spec)
    with model.distribute_strategy.scope():
        model._symbolic_build(data_batch=batch)


def _of_one_replica(spec: Any) -> Any:
    spec = getattr(spec, "_value_specs", (spec,))[0]
    return spec if hasattr(spec, "shape") else None


def _refuse_outside(model: Any) -> None:
    strategy = _strategy() if _strategy is not None else None
    if strategy is None:
        return
    raise ValueError(
        explain(
            f"Model {model.name!r} was built outside the strategy's scope and would "
            "train alone on every replica",
            received="a model without a strategy",
            expected=f"a model of {type(strategy).__name__} "
            f"({strategy.num_replicas_in_sync} replicas)",
            hint="Build and compile it inside `with strategy.scope():`.",
        )
    )
