"""TensorFlow's own MultiWorkerMirroredStrategy in a training loop of one's own.

Its `fit` crashes under Keras 3 (tensorflow#72388, keras#20585).
"""

from __future__ import annotations

from typing import Any

from benchmarks.network.programs import rank


def main() -> None:
    """Trains until there are no more orders."""
    me = rank.start()
    import tensorflow as tf

    strategy = tf.distribute.MultiWorkerMirroredStrategy()  # before other operations

    from benchmarks.network.programs import keras_parts

    with strategy.scope():
        model, loss_of, optimizer = keras_parts.prepared(me.model)
        optimizer.build(model.trainable_variables)
    inputs, labels = (tf.constant(array) for array in me.batches())

    @tf.function
    def train_step(number: Any) -> Any:
        def replica(number: Any) -> Any:
            with tf.GradientTape() as tape:
                loss = loss_of(labels[number], model(inputs[number], training=True))
                share = loss / me.ranks  # Keras's optimizer adds the gradients up
            weights = model.trainable_variables
            gradients = tape.gradient(share, [weight.value for weight in weights])
            optimizer.apply(gradients, weights)
            return loss

        (loss,) = strategy.experimental_local_results(strategy.run(replica, (number,)))
        return loss

    rank.serve(
        me.orders,
        lambda number: float(train_step(tf.constant(number))),
        **keras_parts.facts(me.model, model, me.ranks),
    )


if __name__ == "__main__":
    main()
