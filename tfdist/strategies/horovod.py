"""Horovod's ring all-reduce as a `tf.distribute` strategy."""

from __future__ import annotations

import ctypes
import logging
import os
from typing import Any

import tensorflow as tf
from tensorflow.python.distribute import (
    cross_device_ops,
    distribute_lib,
    distribute_utils,
    mirrored_strategy,
    values,
)
from tensorflow.python.framework import ops

from tfdist import cluster
from tfdist.coordination.launch import read_launch
from tfdist.errors import explain
from tfdist.gradients import waiting
from tfdist.strategies import entry, sharding, variables
from tfdist.strategies.devices import choose_device
from tfdist.strategies.environment import confirm
from tfdist.strategies.horovod_collectives import HorovodCollectives
from tfdist.strategies.training import KerasTraining

_logger = logging.getLogger("tfdist")
_ON_DEMAND = "DYNAMIC"  # Horovod's word for a timeline that is started later


class HorovodStrategy(KerasTraining, tf.distribute.MultiWorkerMirroredStrategy):
    """Trains one replica per process; Horovod carries what they exchange.

    Use it on clusters that start jobs with `horovodrun`, `mpirun` or Slurm, with one
    process for each GPU (or for each CPU host). Each process runs the same script;
    the model starts from the weights of rank 0 at its first `fit`, `evaluate` or
    `predict`. It is a subclass of MultiWorkerMirroredStrategy because Keras asks for
    that class before it gathers the predictions of several processes.

    Horovod's tensor fusion is switched off: gradients already travel in few buffers,
    whose sums must not depend on what else happens to be ready in the same cycle.

    Args:
        device: The device to compute on, such as "GPU:0"; default: the local rank's
            GPU, or the CPU where there is none.
        stall_timeout: Seconds of silence after which a waiting rank raises;
            default: TFDIST_STALL_TIMEOUT, else 600.

    Raises:
        ImportError: Horovod is not built against this TensorFlow.
        ValueError: The host has fewer GPUs than ranks.

    References:
        Sergeev, Del Balso, Horovod: fast and easy distributed deep learning in
        TensorFlow, arXiv:1802.05799, 2018.

    Example:
        >>> strategy = tfdist.strategy("horovod")
        >>> with strategy.scope():
        ...     model = keras.Sequential([...])
        ...     model.compile("adam", "mse")
        >>> model.fit(dataset_of_global_batches)
    """

    _collective_key_base = 0  # read by MirroredExtended

    def __init__(
        self, device: str | None = None, *, stall_timeout: float | None = None
    ) -> None:
        launch = read_launch(os.environ)  # refuses HOROVOD_ELASTIC, contradictions
        horovod = _initialized_horovod(alone=launch is None)
        confirm(launch, horovod.rank(), horovod.size())
        if device is None:
            device = _own_device(horovod)
        # Not MultiWorkerMirroredStrategy's: that would start TensorFlow's servers.
        tf.distribute.Strategy.__init__(self, HorovodExtended(self, device, horovod))
        self._connect(
            rank=horovod.rank(),
            size=horovod.size(),
            local_rank=horovod.local_rank(),
            one_host=horovod.local_size() == horovod.size(),
            broadcast=lambda payload: _broadcast_bytes(horovod, payload),
            unblock=horovod.shutdown,
            stall_timeout=stall_timeout,
        )
        entry.install(self)

    def all_to_all(self, value: tf.Tensor) -> tf.Tensor:
        """Sends row j of a tensor to rank j; returns the rows received, by sender.

        Called in a replica context; tf.distribute has no such collective.
        """
        return self.extended._collectives.all_to_all(value)

    def start_timeline(self, file: str) -> bool:
        """Makes Horovod record what it does, in a Chrome trace that rank 0 writes.

        Called on all ranks; returns whether it does: not if it already records the
        whole run, as `horovodrun --timeline-filename` asks, and not if Horovod was not
        built by tfdist and nobody has asked it, before the start, to be ready.
        """
        ready = os.environ.get("HOROVOD_TIMELINE")
        if ready is None and cluster.is_chief():
            _logger.warning(
                "Horovod's own timeline is left out: this build of Horovod would have "
                "taken a core of rank 0 to be ready for it. HINT: Run `tfdist horovod "
                "install`, or set HOROVOD_TIMELINE=DYNAMIC before the start."
            )
        if ready != _ON_DEMAND:
            return False
        self.extended.horovod.start_timeline(file)
        return True

    def stop_timeline(self) -> None:
        """Ends the recording; the file is complete a moment later."""
        self.extended.horovod.stop_timeline()

    @property
    def cluster_resolver(self) -> None:
        """None: the launcher, not TF_CONFIG, describes the cluster."""
        return None


class HorovodExtended(mirrored_strategy.MirroredExtended):
    """One local replica on one device; all communication goes through Horovod."""

    def __init__(self, container: Any, device: str, horovod: Any) -> None:
        self._horovod = horovod
        self._collectives = HorovodCollectives(horovod)
        self._horovod_operations = _HorovodOperations(self._collectives)
        super().__init__(
            container, devices=[device], cross_device_ops=self._horovod_operations
        )

    @property
    def horovod(self) -> Any:
        """The module `horovod.tensorflow`, initialised."""
        return self._horovod

    # One replica: it runs inline, so whatever it does may stand inside a condition.
    def _use_merge_call(self) -> bool:
        return False

    def _call_for_each_replica(self, fn: Any, args: Any, kwargs: Any) -> Any:
        with ops.device(self._devices[0]), _InlineReplica(self._container_strategy()):
            return fn(
                *distribute_utils.select_replica(0, args),
                **distribute_utils.select_replica(0, kwargs),
            )

    @property
    def _num_replicas_in_sync(self) -> int:
        return self._horovod.size()

    def _get_local_replica_id(self, replica_id_in_sync_group: int) -> int:
        return 0

    def _get_replica_id_in_sync_group(self, replica_id: int) -> int:
        return self._horovod.rank()

    def _create_variable(self, next_creator: Any, **kwargs: Any) -> Any:
        return super()._create_variable(next_creator, **variables.per_replica(kwargs))

    def _get_cross_device_ops(self, value: Any) -> Any:
        return self._horovod_operations

    def _reduce_to(
        self, reduce_op: Any, value: Any, destinations: Any, options: Any
    ) -> Any:
        mean = reduce_op == tf.distribute.ReduceOp.MEAN
        if mean and distribute_utils.is_mirrored(value):
            return value
        return tf.nest.map_structure(
            lambda part: self._collectives.all_reduce(_local(part), mean), value
        )

    def _gather_to_implementation(
        self, value: Any, destinations: Any, axis: int, options: Any
    ) -> Any:
        return self._collectives.all_gather(_local(value), axis)

    def _gather_equal(self, value: tf.Tensor) -> tf.Tensor:
        return self._collectives.all_gather(value)

    def _replica_ctx_all_reduce(
        self, reduce_op: Any, value: Any, options: Any = None
    ) -> Any:
        mean = reduce_op == tf.distribute.ReduceOp.MEAN
        result = tf.nest.map_structure(
            lambda part: self._collectives.all_reduce(part, mean),
            value,
            expand_composites=False,
        )
        waiting.note_layers(value, result)
        return result

    def _make_input_context(self) -> Any:
        return distribute_lib.InputContext(
            num_input_pipelines=self._horovod.size(),
            input_pipeline_id=self._horovod.rank(),
            num_replicas_in_sync=self._horovod.size(),
        )

    def _experimental_distribute_dataset(self, dataset: Any, options: Any) -> Any:
        return sharding.replica_batches(
            dataset, self._horovod.size(), self._horovod.rank()
        )

    def _distribute_datasets_from_function(self, dataset_fn: Any, options: Any) -> Any:
        return sharding.even_steps(
            dataset_fn(self._make_input_context()), self._container_strategy()
        )

    def _experimental_distribute_values_from_function(self, value_fn: Any) -> Any:
        return value_fn(
            distribute_lib.ValueContext(self._horovod.rank(), self._horovod.size())
        )

    def _in_multi_worker_mode(self) -> bool:
        return True

    @property
    def experimental_between_graph(self) -> bool:
        """Every process traces its own program."""
        return True

    @property
    def should_checkpoint(self) -> bool:
        """Only the chief writes."""
        return self._horovod.rank() == 0

    @property
    def should_save_summary(self) -> bool:
        """Only the chief writes."""
        return self._horovod.rank() == 0


class _InlineReplica(distribute_lib.ReplicaContext):
    """The replica context of this process's only replica."""

    def __init__(self, strategy: Any) -> None:
        super().__init__(strategy, replica_id_in_sync_group=cluster.rank())

    @property
    def devices(self) -> Any:
        return self._strategy.extended.worker_devices


class _HorovodOperations(cross_device_ops.CrossDeviceOps):
    """The form in which TensorFlow asks for reductions of distributed values."""

    def __init__(self, collectives: HorovodCollectives) -> None:
        super().__init__()
        self._collectives = collectives

    @property
    def _num_between_graph_workers(self) -> int:
        return 2  # one would let TensorFlow take its single-worker short cut

    def reduce_implementation(
        self, reduce_op: Any, per_replica_value: Any, destinations: Any, options: Any
    ) -> Any:
        mean = reduce_op == tf.distribute.ReduceOp.MEAN
        total = self._collectives.all_reduce(_local(per_replica_value), mean)
        return distribute_utils.regroup((total,), wrap_class=values.Mirrored)

    def batch_reduce_implementation(
        self, reduce_op: Any, value_destination_pairs: Any, options: Any
    ) -> Any:
        return [
            self.reduce_implementation(reduce_op, value, destination, options)
            for value, destination in value_destination_pairs
        ]

    def _gather_implementation(
        self, per_replica_value: Any, destinations: Any, axis: int, options: Any
    ) -> Any:
        rows = self._collectives.all_gather(_local(per_replica_value), axis)
        return distribute_utils.regroup((rows,), wrap_class=values.Mirrored)


def _local(value: Any) -> Any:
    return value.values[0] if isinstance(value, values.DistributedValues) else value


def _initialized_horovod(alone: bool) -> Any:
    # Read once, by init(). Fusion would mix other tensors into the gradients' buffer
    # and move the borders of the ring's chunks from step to step.
    os.environ["HOROVOD_FUSION_THRESHOLD"] = "0"
    if alone:
        # MPI would want its launcher's daemon even for a single process.
        os.environ.setdefault("HOROVOD_CONTROLLER", "gloo")
        os.environ.setdefault("HOROVOD_CPU_OPERATIONS", "gloo")
    try:
        import horovod.tensorflow as horovod
    except ImportError as error:
        raise ImportError(
            explain(
                "Horovod is not built against the installed TensorFlow",
                received=f"{type(error).__name__}: {error}",
                expected="horovod 0.28.1 with TensorFlow support",
                hint="Run `tfdist horovod install`.",
            )
        ) from error
    # The thread that waits for a timeline to be asked for takes a core of rank 0, in
    # an endless loop; not in the Horovod that tfdist builds.
    if hasattr(ctypes.CDLL(None), "horovod_timeline_pauses"):
        os.environ.setdefault("HOROVOD_TIMELINE", _ON_DEMAND)
    horovod.init()
    return horovod


def _own_device(horovod: Any) -> str:
    gpus = tf.config.list_physical_devices("GPU")
    chosen = choose_device(
        [gpu.name for gpu in gpus],
        horovod.local_rank(),
        horovod.local_size(),
        os.environ.get("CUDA_VISIBLE_DEVICES"),
    )
    if chosen is None:
        return "CPU:0"
    gpu = next(gpu for gpu in gpus if gpu.name == chosen)
    tf.config.set_visible_devices(gpu, "GPU")
    tf.config.experimental.set_memory_growth(gpu, True)
    return "GPU:0"


def _broadcast_bytes(horovod: Any, payload: bytes) -> bytes:
    """Returns rank 0's payload on every rank."""
    length = horovod.broadcast(
        tf.constant(len(payload), tf.int64), 0, name="tfdist.start.length"
    )
    padded = payload.ljust(int(length), b"\0")[: int(length)]
    content = horovod.broadcast(
        tf.io.decode_raw(padded, tf.uint8), 0, name="tfdist.start.payload"
    )
    return content.numpy().tobytes()
