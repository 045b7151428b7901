"""Where the time of Keras's training steps goes, measured inside them.

Keras takes a batch and trains on it in one `tf.function`, so the clock has to be read
there. Operations that read it are added while the function is traced, and taken out
with it: a model that is not measured runs the same operations as ever.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow.python.ops import resource_variable_ops

from tfdist import cluster
from tfdist.gradients import shares, waiting
from tfdist.strategies.steps import replaced


class Totals(NamedTuple):
    """Sums since the measurement began, of this process; NaN where not known."""

    steps: float
    examples: float  # of all replicas of this process
    input_seconds: float  # waiting for a batch; of the first of these replicas
    communication_seconds: float  # waiting for other replicas; likewise


class StepTimes:
    """Measures the training steps of a model that is being fitted.

    Waiting for input is the time from when a replica asks for a batch until all of it
    is there, on the replica's device. Where `steps_per_execution` lets a batch be
    fetched during the step before, only what exceeds that step counts.

    Waiting for others is what `tfdist.gradients.waiting` notes: for the sum of the
    gradients, from the last own gradient on (less what a compressor computes); for the
    finite flag of loss scaling; for denominators, from the predictions on; for the
    collectives of layers. The metrics' sum, which travels during the backward pass, is
    taken to be hidden.

    On a GPU the clock is read when operations have been launched and their results
    are needed on the host; on a CPU, when they have ended.

    A step that XLA compiles as a whole (`jit_compile`) cannot be looked into: there
    only steps are counted, without those that a last execution lacks.

    Args:
        model: The model; compiled.
        executed: Called after each execution, with the number of its steps at most.
    """

    def __init__(self, model: Any, executed: Callable[[int], None]) -> None:
        strategy = model.distribute_strategy
        self._model = model
        self._executed = executed
        self._count = 0  # of steps that were asked for
        self._asks = False  # whether an execution's first batch is still to be taken
        self.started = 0.0  # when the last execution began, by time.perf_counter()
        local = max(strategy.num_replicas_in_sync // cluster.size(), 1)
        # The replicas of one process are alike: one that reads the clock is enough.
        kinds = [_TimedReplica, *[_Replica] * (local - 1)]
        self._replicas = [] if model.jit_compile else [kind() for kind in kinds]

    @contextlib.contextmanager
    def in_force(self) -> Iterator[None]:
        """Measures what is traced within; outside, nothing of it remains."""
        model = self._model
        make, step = model.make_train_function, model.train_step

        def make_timed(force: bool = False) -> Any:
            if force or model.train_function is None:
                make(force)
                model.train_function = self._timed(model.train_function)
            return model.train_function

        with contextlib.ExitStack() as stack:
            if self._replicas:
                timed_step = self._timed_step(step)
                stack.enter_context(replaced(model, "train_step", timed_step))
            stack.enter_context(replaced(model, "make_train_function", make_timed))
            make_timed(force=True)
            stack.callback(setattr, model, "train_function", None)
            yield

    def totals(self) -> Totals:
        """Returns the sums so far; waits for the steps that are under way."""
        if not self._replicas:
            return Totals(self._count, *[float("nan")] * 3)
        first, *others = (replica.read() for replica in self._replicas)
        examples = first.examples + sum(other.examples for other in others)
        return first._replace(examples=examples)

    def _timed(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Returns Keras's training function, which takes batches of an iterator."""

        def timed(iterator: Any) -> Any:
            kind = type(iterator)
            steps: int = self._model.steps_per_execution
            self._asks = True
            self.started = time.perf_counter()
            with (
                _method(kind, "get_next", self._asking),
                _method(kind, "get_next_as_optional", self._asking),
            ):
                result = function(iterator)
            self._count += steps
            self._executed(steps)
            return result

        return timed

    def _asking(self, method: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Returns an iterator's method, which notes when an execution begins."""

        @functools.wraps(method)
        def ask(iterator: Any) -> Any:
            if not self._asks:
                return method(iterator)
            self._asks = False
            now = waiting.time_when([])
            if self._replicas:
                self._replicas[0].is_free(now)
            with tf.control_dependencies([now]):
                return method(iterator)

        return ask

    def _timed_step(self, step: Callable[[Any], Any]) -> Callable[[Any], Any]:
        @functools.wraps(step)
        def timed_step(data: Any) -> Any:
            replica = self._replicas[_number() % len(self._replicas)]
            replica.begin(data)
            with waiting.entered(replica.waiting), _Changes() as changes:
                outputs = step(data)
            if self._model.steps_per_execution > 1 and replica is self._replicas[0]:
                with tf.control_dependencies(changes.made):
                    replica.is_free(waiting.time_when(outputs))
            return outputs

        return timed_step


class _Replica:
    """Counts what a replica does, in a variable beside the strategy's own."""

    waiting = waiting.Waiting()

    def __init__(self) -> None:
        self._sums = _variable([0.0, 0.0, 0.0])  # steps, examples, seconds of waiting

    def is_free(self, now: tf.Tensor) -> None:
        """Notes when the step before ended, or a batch was asked for."""

    def begin(self, data: Any) -> None:
        """Counts a step, whose batch this is."""
        rows = shares.Shares((data,), equal=True, replica=0).rows
        sums = tf.stack([1.0, tf.cast(rows, tf.float64), self._asleep(data)])
        self._sums.assign_add(sums, read_value=False)

    def read(self) -> Totals:
        """Returns the sums so far."""
        steps, examples, asleep = self._sums.numpy().tolist()
        return Totals(steps, examples, asleep, 0.0)

    def _asleep(self, data: Any) -> tf.Tensor:
        return tf.zeros([], tf.float64)


class _TimedReplica(_Replica):
    """Measures the times, too."""

    def __init__(self) -> None:
        super().__init__()
        # NaN where a training function of the user's own does not ask for a batch.
        self._free = _variable(float("nan"))
        self._waited = _variable(0.0)  # seconds, for others
        self.waiting = waiting.MeasuredWaiting(self._waited)

    def is_free(self, now: tf.Tensor) -> None:
        self._free.assign(now, read_value=False)

    def read(self) -> Totals:
        waited = float(self._waited.numpy())
        return super().read()._replace(communication_seconds=waited)

    def _asleep(self, data: Any) -> tf.Tensor:
        asleep = waiting.time_when(data) - self._free.read_value()
        return tf.where(asleep < 0.0, tf.zeros_like(asleep), asleep)


class _Changes:
    """The operations with side effects that are added to a graph within."""

    made: list[Any]

    def __enter__(self) -> _Changes:
        self._graph = (
            None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        )
        self._before = len(self._graph.get_operations()) if self._graph else 0
        return self

    def __exit__(self, *error: object) -> None:
        self.made = [
            operation
            for operation in self._operations()[self._before :]
            if operation.op_def.is_stateful and operation.type != "ReadVariableOp"
        ]

    def _operations(self) -> list[Any]:
        if tf.executing_eagerly():
            return []
        operations: list[Any] = tf.compat.v1.get_default_graph().get_operations()
        return operations


def _variable(value: Any) -> Any:
    # Not tf.Variable: a strategy would make one for each replica.
    with tf.init_scope(), tf.device("CPU:0"):
        return resource_variable_ops.ResourceVariable(
            tf.constant(value, tf.float64), trainable=False
        )


def _number() -> int:
    """Returns the number of the replica whose step is traced, or runs."""
    context = tf.distribute.get_replica_context()
    number = context.replica_id_in_sync_group
    return int(tf.get_static_value(number)) if tf.is_tensor(number) else int(number)


@contextlib.contextmanager
def _method(kind: type, name: str, wrap: Callable[[Any], Any]) -> Iterator[None]:
    """Replaces a method of a class."""
    own = vars(kind).get(name)
    setattr(kind, name, wrap(getattr(kind, name)))
    try:
        yield
    finally:
        if own is None:
            delattr(kind, name)
        else:
            setattr(kind, name, own)
