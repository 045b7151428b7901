"""How long a method's collectives take with nothing else to do, one after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.network.programs import rank
from benchmarks.network.programs.stages import timed


def main() -> None:
    """Times what is ordered: one process on each host, by Horovod."""
    me = rank.start()
    import horovod.tensorflow as hvd
    import tensorflow as tf

    from benchmarks.network.programs import keras_parts

    hvd.init()
    model, *_ = keras_parts.prepared(me.model)
    for order in me.orders:
        # The ranks see an order at different times; Horovod 0.28.1 has no barrier here.
        hvd.allreduce(tf.zeros([1]), name="start")
        me.orders.answer(seconds=timed(exchanged(model, order, me.ranks)))
    hvd.shutdown()


def exchanged(model: Any, order: dict[str, Any], ranks: int) -> Callable[[], Any]:
    """Returns what moves a step's bytes, as float32 in a buffer for each collective."""
    import horovod.tensorflow as hvd
    import tensorflow as tf

    from benchmarks.network.programs import keras_parts
    from tfdist.compression import Fused, Slot, get
    from tfdist.compression.rounds import ALL_TO_ALL, GATHER, SUM

    dense, _ = keras_parts.split_variables(model)
    slots = [Slot(v.path, tuple(v.shape), v.dtype) for v in dense]
    compressor = get(order["compressor"], **order["parameters"])
    fused = Fused(compressor, slots, ranks, has_all_to_all=True)
    how = {
        SUM: lambda buffer: hvd.allreduce(buffer, op=hvd.Sum, name=SUM),
        GATHER: lambda buffer: hvd.allgather(buffer, name=GATHER),
        ALL_TO_ALL: lambda buffer: hvd.alltoall(buffer, name=ALL_TO_ALL),
    }
    wires = [
        (how[kind], tf.zeros([size // 4 // ranks * ranks]))
        for kind, size in fused.payload()
    ]
    return lambda: [collective(buffer) for collective, buffer in wires]


if __name__ == "__main__":
    main()
