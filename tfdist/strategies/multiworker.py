"""MultiWorkerMirroredStrategy: several processes described by TF_CONFIG."""

from __future__ import annotations

import base64
import itertools
import os
from typing import Any

import tensorflow as tf
from tensorflow.python.distribute import (
    collective_all_reduce_strategy,
    mirrored_strategy,
)
from tensorflow.python.eager import context

from tfdist.coordination.launch import read_launch
from tfdist.strategies import entry, sharding
from tfdist.strategies.array_memory import owning
from tfdist.strategies.tensorflow_collectives import (
    ExecutionOrderKeys,
    LocalReplicas,
    count_at_run_time,
)
from tfdist.strategies.training import KerasTraining


class MultiWorkerMirroredStrategy(
    KerasTraining, tf.distribute.MultiWorkerMirroredStrategy
):
    """Trains on all devices of all workers that TF_CONFIG names.

    `tf.distribute.MultiWorkerMirroredStrategy` with Keras 3 repaired: there `fit` does
    not run (keras#20585). Each worker runs the same script; the model starts from the
    weights of worker 0 at its first `fit`, `evaluate` or `predict`.

    Args:
        cluster_resolver: Describes the cluster; default: read from TF_CONFIG.
        communication_options: A `tf.distribute.experimental.CommunicationOptions`.
        stall_timeout: Seconds of silence after which a waiting worker raises;
            default: TFDIST_STALL_TIMEOUT, else 600.

    Raises:
        ValueError: TF_CONFIG is malformed.

    Example:
        >>> os.environ["TF_CONFIG"] = json.dumps({
        ...     "cluster": {"worker": ["host1:2222", "host2:2222"]},
        ...     "task": {"type": "worker", "index": 0}})
        >>> strategy = tfdist.strategy("multiworker")
    """

    def __init__(
        self,
        cluster_resolver: Any = None,
        communication_options: Any = None,
        *,
        stall_timeout: float | None = None,
    ) -> None:
        # Words what is wrong with TF_CONFIG, which TensorFlow reads again.
        launch = read_launch(os.environ) if cluster_resolver is None else None
        options = communication_options or (
            tf.distribute.experimental.CommunicationOptions()
        )
        extended = _Extended(self, cluster_resolver, options)
        tf.distribute.Strategy.__init__(self, extended)
        self._connect(
            rank=extended.worker,
            size=extended.workers,
            local_rank=0 if launch is None else launch.local_rank,
            one_host=extended.one_host,
            broadcast=_fetch_bytes if extended.worker else _publish_bytes,
            unblock=lambda: context.context().abort_collective_ops(
                tf.errors.ABORTED, "tfdist found that the workers disagree"
            ),
            stall_timeout=stall_timeout,
        )
        entry.install(self)

    @property
    def cluster_resolver(self) -> Any:
        """The resolver that describes the cluster."""
        return self.extended._cluster_resolver


class _Extended(
    LocalReplicas, collective_all_reduce_strategy.CollectiveAllReduceExtended
):
    def __init__(self, container: Any, cluster_resolver: Any, options: Any) -> None:
        super().__init__(
            container,
            cluster_resolver=cluster_resolver,
            communication_options=options,
        )
        keys = ExecutionOrderKeys()
        count_at_run_time(self._cross_device_ops, keys)
        count_at_run_time(self._host_cross_device_ops, keys)

    @property
    def worker(self) -> int:
        return getattr(self, "_id_in_cluster", 0)

    @property
    def workers(self) -> int:
        return self._num_workers

    @property
    def one_host(self) -> bool:
        """Whether all workers are named by one address."""
        spec = self._cluster_resolver.cluster_spec().as_dict()
        addresses = [address for job in spec.values() for address in job]
        return len({address.rpartition(":")[0] for address in addresses}) == 1

    def _get_variable_creator_initial_value(self, *args: Any, **kwargs: Any) -> Any:
        # TensorFlow broadcasts here, and so waits for ever if a worker creates one
        # model more than the others. The state is sent at the first use instead.
        create = mirrored_strategy.MirroredExtended._get_variable_creator_initial_value
        return create(self, *args, **kwargs)

    def _experimental_distribute_dataset(self, dataset: Any, options: Any) -> Any:
        own = sharding.replica_batches(dataset, self.workers, self.worker)
        return self._spread(own, options)

    def _distribute_datasets_from_function(self, dataset_fn: Any, options: Any) -> Any:
        if len(self.worker_devices) > 1:
            return super()._distribute_datasets_from_function(dataset_fn, options)
        return sharding.even_steps(
            dataset_fn(self._make_input_context()), self._container_strategy()
        )

    def _spread(self, dataset: Any, options: Any) -> Any:
        """Splits this worker's batches between its own devices."""
        if len(self.worker_devices) == 1:
            return dataset
        return mirrored_strategy.input_util.get_distributed_dataset(
            owning(dataset),
            self._input_workers_with_options(options),
            self._container_strategy(),
            num_replicas_in_sync=len(self.worker_devices),
            options=options,
        )


# TensorFlow's coordination service keeps the first value of a key; strategies are
# made in the same order on all workers.
_keys = (f"tfdist/start/{number}" for number in itertools.count())


def _publish_bytes(payload: bytes) -> bytes:
    """Worker 0 leaves its payload with TensorFlow's coordination service."""
    value = base64.b64encode(payload).decode()
    context.context().set_config_key_value(next(_keys), value)
    return payload


def _fetch_bytes(payload: bytes) -> bytes:
    """The other workers fetch it."""
    del payload
    return base64.b64decode(context.context().get_config_key_value(next(_keys)))
