"""What Keras asks of a strategy, and how the exact gradient path gets in."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import keras
import numpy as np
import tensorflow as tf

from tfdist import cluster
from tfdist.coordination import ledger as ledgers
from tfdist.coordination import progress
from tfdist.errors import explain
from tfdist.gradients.attach import GradientPath, attach, attached
from tfdist.strategies import common_start, lifting, steps, synchronize

# What TensorFlow's collectives cannot gather travels in a wider type.
_GATHERED_AS = {
    tf.bfloat16: tf.float32,
    tf.bool: tf.int32,
    tf.int8: tf.int32,
    tf.int16: tf.int32,
    tf.uint8: tf.int32,
    tf.uint16: tf.int32,
}


@dataclass(frozen=True)
class Phase:
    """What this process is in the middle of."""

    name: str  # "fit", "evaluate", "predict", "train_on_batch", ...
    model: Any
    equal: bool  # all replicas are known to have equally many rows in each step


_open_ledger: ledgers.Ledger = ledgers.NullLedger()

_Method = TypeVar("_Method", bound=Callable[..., Any])


def _called_as_it_is(method: _Method) -> _Method:
    """Keeps autograph from converting the method, but not what it calls.

    Like TensorFlow's own: its `do_not_convert` would reach the user's function too.
    """
    method.autograph_info__ = {}  # type: ignore[attr-defined]
    return method


# At run time the strategy's own class follows in the order of the bases.
_Strategy: Any = tf.distribute.Strategy if TYPE_CHECKING else object


class KerasTraining(_Strategy):
    """Mixed into every tfdist strategy, before TensorFlow's own class."""

    _phases: tuple[Phase, ...] = ()
    _ledger: ledgers.Ledger = ledgers.NullLedger()
    _common: common_start.CommonVariables

    def _connect(
        self,
        *,
        rank: int,
        size: int,
        local_rank: int,
        one_host: bool,
        broadcast: Callable[[bytes], bytes],
        unblock: Callable[[], object] | None,
        stall_timeout: float | None,
    ) -> None:
        """Joins this process to the others of the job."""
        self._phases = ()
        self._common = common_start.CommonVariables()
        global _open_ledger
        _open_ledger.close()  # of an earlier strategy in this process
        self._ledger = _open_ledger = ledgers.start(
            rank,
            size,
            broadcast,
            bind_address="127.0.0.1" if one_host else None,
            unblock=unblock,
            stall_timeout=stall_timeout,
        )
        cluster.install(
            cluster.Member(
                rank,
                size,
                local_rank,
                lambda name, timeout: self._ledger.agree(
                    f"barrier {name!r}", timeout=timeout
                ),
            )
        )

    def agree(
        self,
        what: str,
        details: dict[str, Any] | None = None,
        timeout: float | None = None,
    ) -> None:
        """Waits for all ranks to come to `what`, or raises what they disagree on.

        Args:
            what: What this rank is about to do.
            details: What has to be equal.
            timeout: Seconds after which the missing ranks are named; None means 300,
                or the stall timeout where that is longer.
        """
        self._ledger.agree(what, details, timeout)

    def stops(self, wanted: bool) -> bool:
        """Returns whether all ranks stop here; see `Ledger.look`."""
        return self._ledger.look(wanted)

    def phase_name(self) -> str:
        """Returns what this process is in the middle of, such as "fit"."""
        return self._phases[-1].name if self._phases else "the script"

    def gather_integers(self, value: int) -> list[int]:
        """Returns the integers that the processes pass, in the order of their ranks."""
        return synchronize.gather_integers(self, value, cluster.rank(), cluster.size())

    def gather_numbers(self, values: Sequence[float]) -> np.ndarray:
        """Returns the processes' numbers, [processes, n], in the order of their ranks.

        Args:
            values: Equally many on all processes.
        """
        own = np.asarray(values, np.float64)
        return synchronize.gather(self, own, cluster.rank(), cluster.size())

    @_called_as_it_is
    def run(
        self,
        fn: Callable[..., Any],
        args: Any = (),
        kwargs: Any = None,
        options: Any = None,
    ) -> Any:
        """Runs `fn` on every replica, with the exact gradient path for Keras's steps.

        See `tf.distribute.Strategy.run`. For `model.train_step` the path is attached
        to the model's optimizer, for a function of your own to each that it applies;
        `tfdist.gradients.attach(optimizer, model)` tells it of the model as well.
        """
        if options is None and lifting.can_lift(fn):
            return lifting.lifted(self, fn)(*args, **(kwargs or {}))
        phase = self._phases[-1] if self._phases else None
        watched = progress.installed()
        if phase is None and watched is not None:
            watched.enter_loop()
        model, role = steps.model_of(fn) or (None, "")
        if model is not None and role == "train_step" and model.optimizer is not None:
            with self.scope():
                attach(model.optimizer, model)
        if model is None and phase is not None:
            model = phase.model
        self._refuse_foreign(model)
        equal = phase is not None and phase.equal
        # As TensorFlow's `run` does it; our own wrapper needs no conversion.
        control = tf.__internal__.autograph.control_status_ctx()
        fn = tf.__internal__.autograph.tf_convert(fn, control, convert_by_default=False)
        replica_fn = tf.autograph.experimental.do_not_convert(
            steps.replica_function(fn, model, role, equal)
        )
        if model is None:
            self._forget_garbage()
        before = attached(self)
        # Those that earlier runs have found are left to the runs that apply them: a
        # script may still hold one on some of the ranks, as a part of an error.
        self.start_from_first(model, [path for path in before if not path.found])
        with self.scope(), steps.instrumented(model if role else None):
            result = super().run(replica_fn, args=args, kwargs=kwargs, options=options)
        now = [path for path in attached(self) if not (path.found and path in before)]
        self.start_from_first(model, now, has_run=tf.executing_eagerly())
        return result

    @_called_as_it_is
    def reduce(self, reduce_op: Any, value: Any, axis: Any = None) -> Any:
        """Reduces a value over replicas; see `tf.distribute.Strategy.reduce`.

        Accepts what Keras 3 passes as well (tensorflow#72388): scalar logs with
        `axis=0`, which `run` has already made equal everywhere. Run eagerly, Keras
        3.8 makes Python numbers of them.
        """
        first = self._first_result(value)
        if axis is not None and getattr(first, "shape", ()) == ():
            return first
        return super().reduce(reduce_op, value, axis=axis)

    @_called_as_it_is
    def gather(self, value: Any, axis: int) -> Any:
        """Joins the replicas' tensors; see `tf.distribute.Strategy.gather`."""
        dtype = tf.as_dtype(self._first_result(value).dtype)
        if dtype not in _GATHERED_AS:
            return super().gather(value, axis)
        wide = _GATHERED_AS[dtype]
        local = self.experimental_local_results(value)
        value = self._regroup([tf.cast(part, wide) for part in local])
        return tf.cast(super().gather(value, axis), dtype)

    def gather_equal(self, value: tf.Tensor) -> tf.Tensor:
        """Joins tensors of one shape along their first axis, in a replica context.

        Unlike the replica context's `all_gather` it may stand inside a condition.
        """
        return self.extended._gather_equal(value)

    def _regroup(self, parts: list[Any]) -> Any:
        if len(parts) == 1:
            return parts[0]
        return self.experimental_distribute_values_from_function(
            lambda context: parts[context.replica_id_in_sync_group % len(parts)]
        )

    def _first_result(self, value: Any) -> Any:
        return self.experimental_local_results(value)[0]

    def _refuse_foreign(self, model: Any) -> None:
        """Raises ValueError if a variable of the model is not on every replica."""
        if model is None or not model.built or self.num_replicas_in_sync == 1:
            return
        for variable in [*model.variables, *model.metrics_variables]:
            if not self.extended.variable_created_in_scope(variable.value):
                raise ValueError(
                    explain(
                        f"A part of model {model.name!r} was created outside the "
                        "strategy's scope, so it exists only once",
                        received=f"variable {variable.path!r}",
                        expected="all layers and metrics created inside the scope",
                        hint="Move their creation into `with strategy.scope():`.",
                    )
                )

    def start_from_first(
        self, model: Any, paths: Sequence[GradientPath] = (), has_run: bool = False
    ) -> None:
        """Starts a model, or a loop's attached optimizers, from rank 0's weights.

        Args:
            model: The model; None for a loop.
            paths: Those of optimizers in use. Beside a model, only what a run has found
                counts: other optimizers belong to other models.
            has_run: Whether a step of the loop was already made with these weights.
        """
        if cluster.size() == 1:
            return
        pairs = [(path.model, path.optimizer) for path in paths]
        if model is not None:
            pairs = [(path.model, path.optimizer) for path in paths if path.found]
            # A model that was never compiled has no optimizer, not even None.
            pairs.insert(0, (model, getattr(model, "optimizer", None)))
        with tf.init_scope():
            for model, optimizer in pairs:
                if new := self._common.lacking(model, optimizer):
                    what = common_start.fingerprint(new, optimizer)
                    self.agree("start from rank 0's weights", what)
                    if has_run and model is None:
                        common_start.refuse_unequal_weights(self, optimizer)
                    synchronize.send_from_first(self, new)
                    self._common.add(new)

    def _forget_garbage(self) -> None:
        """Drops attached optimizers that the script no longer has, on all ranks.

        Each rank's garbage collector comes at a time of its own, and an optimizer that
        only some ranks still know cannot start from rank 0's weights.
        """
        with tf.init_scope():
            if cluster.size() > 1 and any(
                self._common.lacking(path.model, path.optimizer)
                for path in attached(self)
                if not path.found
            ):
                gc.collect()

    def share_again(self, variables: Sequence[Any]) -> None:
        """Lets the next use of a model start from the first replica's values.

        For variables that replicas have changed on their own, when it is not certain
        that all processes can still be reached.
        """
        for variable in variables:
            variable.assign(variable.numpy())  # of this process's first replica
        self._common.remove(variables)

    @contextlib.contextmanager
    def trial(self) -> Iterator[None]:
        """Forgets at the end which variables were sent from rank 0 within.

        For those who restore what the variables were before.
        """
        before = self._common
        self._common = before.copy()
        try:
            yield
        finally:
            self._common = before

    @contextlib.contextmanager
    def _phase(self, phase: Phase, details: dict[str, Any] | None) -> Iterator[None]:
        """Enters a phase with all ranks, and says why if a collective fails in it."""
        if details is not None:
            self.agree(phase.name, details)
        self._ledger.activity(phase.name)
        if cluster.rank() > 0:
            # One progress bar: the chief's. clear_session() forgets the setting.
            keras.utils.disable_interactive_logging()
        self._phases = (*self._phases, phase)
        try:
            yield
        except (tf.errors.OpError, KeyboardInterrupt) as error:
            verdict = self._ledger.diagnose()
            if verdict is None or isinstance(error, KeyboardInterrupt):
                raise
            raise verdict from error
        finally:
            self._phases = self._phases[:-1]


def refuse_jit(model: Any) -> None:
    """Raises ValueError if the model asks for XLA."""
    if model.compiled and model.jit_compile:
        raise ValueError(
            explain(
                "jit_compile=True cannot be used under a tfdist strategy",
                received="model.jit_compile = True",
                expected="False: XLA cannot compile the collectives of Horovod, nor "
                "TensorFlow's on CPUs",
                hint="Leave jit_compile out of model.compile().",
            )
        )
