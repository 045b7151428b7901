"""MirroredStrategy: all devices of one machine, driven by one process."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.distribute import mirrored_strategy

from tfdist.errors import explain
from tfdist.strategies import entry
from tfdist.strategies.array_memory import owning
from tfdist.strategies.environment import REPLICAS_VARIABLE, replicas_asked
from tfdist.strategies.tensorflow_collectives import (
    ExecutionOrderKeys,
    LocalReplicas,
    count_at_run_time,
)
from tfdist.strategies.training import KerasTraining


class MirroredStrategy(KerasTraining, tf.distribute.MirroredStrategy):
    """Trains one replica on each device of this machine, in one process.

    `tf.distribute.MirroredStrategy` with Keras 3 repaired: gradient accumulation,
    `steps_per_execution`, moving averages that overwrite the weights, clipping, loss
    scaling and batches that do not divide evenly give the result of one device.

    Args:
        devices: The devices, such as `["GPU:0", "GPU:1"]`; default: as many as
            TFDIST_REPLICAS says (`tfdist run -np`), else all GPUs.

    Raises:
        ValueError: A device does not exist, or TensorFlow had already started when
            the CPU was to be split.

    Example:
        >>> strategy = tfdist.strategy("mirrored")
        >>> with strategy.scope():
        ...     model = keras.Sequential([...])
    """

    def __init__(self, devices: Sequence[str] | None = None) -> None:
        if devices is None:
            devices = asked_devices(replicas_asked(os.environ))
        _check_devices(devices)
        tf.distribute.Strategy.__init__(self, _Extended(self, devices=devices))
        self._connect(
            rank=0,
            size=1,
            local_rank=0,
            one_host=True,
            broadcast=lambda payload: payload,
            unblock=None,
            stall_timeout=None,
        )
        entry.install(self)


class _Extended(LocalReplicas, mirrored_strategy.MirroredExtended):
    def __init__(self, container: Any, devices: Sequence[str] | None) -> None:
        super().__init__(container, devices=devices)
        count_at_run_time(self._collective_ops, ExecutionOrderKeys())

    def _experimental_distribute_dataset(self, dataset: Any, options: Any) -> Any:
        return super()._experimental_distribute_dataset(owning(dataset), options)


def asked_devices(count: int | None) -> list[str] | None:
    """Returns that many GPUs, or parts of the CPU where there is no GPU.

    Args:
        count: The number of devices; None asks for none in particular.

    Raises:
        ValueError: There are fewer GPUs, or the CPU can no longer be split.
    """
    if count is None:
        return None
    if tf.config.list_physical_devices("GPU"):
        return [f"GPU:{number}" for number in range(count)]
    cpu = tf.config.list_physical_devices("CPU")[0]
    parts = [tf.config.LogicalDeviceConfiguration()] * count
    split = tf.config.get_logical_device_configuration(cpu) or ()
    if len(split) != count:
        try:
            tf.config.set_logical_device_configuration(cpu, parts)
        except RuntimeError as error:
            raise ValueError(
                explain(
                    f"The CPU cannot be split into {count} devices",
                    received=f"{REPLICAS_VARIABLE}={count}; {error}",
                    expected="a TensorFlow that has not computed anything yet",
                    hint="Call tfdist.strategy() before anything that uses TensorFlow.",
                )
            ) from error
    return [f"CPU:{number}" for number in range(count)]


def _check_devices(devices: Sequence[str] | None) -> None:
    known = [device.name for device in tf.config.list_logical_devices()]
    for device in devices or ():
        if not any(
            name.lower().endswith(device.lower().removeprefix("/")) for name in known
        ):
            raise ValueError(
                explain(
                    "MirroredStrategy was given a device that does not exist",
                    received=device,
                    expected=f"some of {', '.join(known)}",
                    hint="To split the CPU, call tf.config."
                    "set_logical_device_configuration before anything else.",
                )
            )
