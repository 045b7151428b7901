"""Plain Horovod in a training loop of one's own, as its users write it.

An all-reduce for each gradient, which Horovod fuses and starts while the backward pass
still runs; or all of them as one group.
"""

from __future__ import annotations

from typing import Any

from benchmarks.network.programs import rank


def main() -> None:
    """Trains until there are no more orders."""
    me = rank.start()
    import horovod.tensorflow as hvd
    import tensorflow as tf

    from benchmarks.network.programs import keras_parts

    hvd.init()
    model, loss_of, optimizer = keras_parts.prepared(me.model)
    inputs, labels = (tf.constant(array) for array in me.batches())
    how = {
        "compression": getattr(hvd.Compression, me.options.get("compression", "none")),
        "op": hvd.Average,
    }

    def averaged(gradients: list[Any]) -> list[Any]:
        if me.options.get("grouped"):
            return hvd.grouped_allreduce(gradients, **how)
        return [
            hvd.allreduce(gradient, name=f"gradient.{number}", **how)
            for number, gradient in enumerate(gradients)
        ]

    @tf.function
    def train_step(number: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = loss_of(labels[number], model(inputs[number], training=True))
        weights = model.trainable_variables
        gradients = tape.gradient(loss, [weight.value for weight in weights])
        optimizer.apply(averaged(gradients), weights)
        return loss

    optimizer.build(model.trainable_variables)
    hvd.broadcast_variables([v.value for v in model.weights + optimizer.variables], 0)
    rank.serve(
        me.orders,
        lambda number: float(train_step(tf.constant(number))),
        **keras_parts.facts(me.model, model, me.ranks),
    )
    hvd.shutdown()


if __name__ == "__main__":
    main()
