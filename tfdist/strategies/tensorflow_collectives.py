"""TensorFlow's own collectives, usable inside conditions and loops.

MirroredStrategy and MultiWorkerMirroredStrategy normally meet in `merge_call`
before they communicate, and feed the key of each collective at call time. Neither
works inside `tf.cond` or `tf.while_loop`, where Keras 3 puts gradient accumulation,
loss scaling and `steps_per_execution` (keras#20582, keras#18666, keras#19246).
Here every replica launches its collectives itself, as TensorFlow already does under
XLA, and the keys are counted while the program runs.
"""

from __future__ import annotations

from typing import Any, ClassVar

import tensorflow as tf
from tensorflow.python.distribute import cross_device_ops, cross_device_utils
from tensorflow.python.ops import resource_variable_ops

from tfdist.gradients import waiting
from tfdist.strategies import variables


class ExecutionOrderKeys(cross_device_utils.CollectiveKeys):
    """Numbers collectives in the order in which they run, on each device.

    A key that is fixed while tracing clashes when ranks retrace at different times;
    one that is fed from outside does not reach into loops. A counter that the graph
    itself increments does both: all replicas run the same collectives in the same
    order, so equal counts meet.
    """

    # TensorFlow remembers the shape of every key for the life of the process, so
    # the numbers go on where an earlier strategy on the same devices stopped.
    _counters: ClassVar[dict[tuple[int, str], Any]] = {}

    def next_key(self, group_key: int, device: str) -> tf.Tensor:
        """Returns the next key, an int32 scalar, of one device in one group."""
        host = tf.DeviceSpec.from_string(device).replace(
            device_type="CPU", device_index=0
        )
        with tf.device(host.to_string()):
            counter = self._counters.get((group_key, device))
            if counter is None:
                with tf.init_scope():
                    counter = resource_variable_ops.ResourceVariable(
                        cross_device_utils.INSTANCE_KEY_START_NUMBER, trainable=False
                    )
                self._counters[group_key, device] = counter
            # The read follows the increment: automatic control dependencies keep
            # operations on one resource in program order, loops included.
            counter.assign_add(1, read_value=False)
            return counter.read_value()


class ExecutionOrderLauncher(cross_device_utils.CollectiveReplicaLauncher):
    """Launches one device's collectives under keys counted at run time."""

    def _next_instance_key(self) -> tf.Tensor:
        return self._collective_keys.next_key(self._group_key, self._device)


def count_at_run_time(
    operations: cross_device_ops.CrossDeviceOps, keys: ExecutionOrderKeys
) -> None:
    """Gives `operations` launchers that take their keys from `keys`.

    Args:
        operations: A `CollectiveAllReduce`; anything else is left alone.
        keys: Shared by all operations of one strategy, since two of them may
            serve the same group of devices.
    """
    if not isinstance(operations, cross_device_ops.CollectiveAllReduce):
        return
    operations._launchers = [
        ExecutionOrderLauncher(
            launcher._group_key,
            launcher._group_size,
            keys,
            launcher._device,
            launcher._options,
        )
        for launcher in operations._launchers
    ]


class LocalReplicas:
    """What tfdist changes in the `extended` object of TensorFlow's strategies."""

    def _gather_equal(self, value: tf.Tensor) -> tf.Tensor:
        context = tf.distribute.get_replica_context()
        if self._use_merge_call():
            return context.all_gather(value, axis=0)
        operations = self._get_cross_device_ops(value)  # type: ignore[attr-defined]
        launcher = operations._launchers[context._replica_id]
        return launcher._all_gather(value, None)

    def _replica_ctx_all_reduce(
        self, reduce_op: Any, value: Any, options: Any = None
    ) -> Any:
        result = super()._replica_ctx_all_reduce(  # type: ignore[misc]
            reduce_op, value, options
        )
        waiting.note_layers(value, result)
        return result

    def _use_merge_call(self) -> bool:
        # Eagerly, the replicas run one after the other and would block in their
        # first collective; there, conditions are Python's and merging is safe.
        return tf.executing_eagerly() or not isinstance(
            self._cross_device_ops,  # type: ignore[attr-defined]
            cross_device_ops.CollectiveAllReduce,
        )

    def _create_variable(self, next_creator: Any, **kwargs: Any) -> Any:
        return super()._create_variable(  # type: ignore[misc]
            next_creator, **variables.per_replica(kwargs)
        )
