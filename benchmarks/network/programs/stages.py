"""How long the stages of a step take without a network: forward pass, compression.

Compression runs as in training, but the rank's own buffers come back in place of the
sum or the others': the arithmetic of all ranks but one is missing, the collectives are.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from benchmarks.network.programs import rank

WARM_UPS, REPEATS = 2, 9


def main() -> None:
    """Times what is ordered."""
    me = rank.start()
    import tensorflow as tf

    from benchmarks.network.programs import keras_parts

    model, loss_of, _ = keras_parts.prepared(me.model)
    inputs, labels = (tf.constant(array[0]) for array in me.batches())

    @tf.function
    def forward() -> Any:
        return loss_of(labels, model(inputs, training=True))

    for order in me.orders:
        if "compressor" in order:
            step = compression_step(model, order)
        else:
            step = forward
        me.orders.answer(seconds=timed(step))


def compression_step(model: Any, order: dict[str, Any]) -> Callable[[], Any]:
    """Returns what compresses and decompresses all gradients once."""
    import tensorflow as tf

    from benchmarks.network.programs import keras_parts
    from tfdist.compression import Fused, Slot, get

    dense, _ = keras_parts.split_variables(model)
    slots = [Slot(v.path, tuple(v.shape), v.dtype) for v in dense]
    compressor = get(order["compressor"], **order["parameters"])
    fused = Fused(compressor, slots, order["ranks"], has_all_to_all=True)
    state = {name: tf.Variable(value) for name, value in fused.init().items()}
    gradients = [tf.random.normal(slot.shape) for slot in slots]
    exchange = _Alone(order["ranks"])

    @tf.function
    def step() -> Any:
        now = {name: variable.read_value() for name, variable in state.items()}
        done = fused.reduce(gradients, now, exchange)
        for name, variable in state.items():
            variable.assign(done.state[name])
        return [total[..., :1] for total in done.totals]

    return step


def timed(step: Callable[[], Any]) -> list[float]:
    """Returns the seconds of several calls."""
    seconds = []
    for _ in range(WARM_UPS + REPEATS):
        began = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - began)
    return seconds[WARM_UPS:]


class _Alone:
    """An exchange whose other ranks send the same."""

    rank, has_all_to_all = 0, True

    def __init__(self, ranks: int) -> None:
        self.ranks = ranks

    def sum(self, tensor: Any) -> Any:
        return tensor * self.ranks

    def gather(self, tensor: Any) -> Any:
        import tensorflow as tf

        return tf.stack([tensor] * self.ranks)

    def all_to_all(self, tensor: Any) -> Any:
        return tensor


if __name__ == "__main__":
    main()
