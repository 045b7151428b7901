"""Runs loops of the user's own, with what a strategy offers for them."""

import functools
import inspect
from typing import Any

import keras
import tensorflow as tf

import tfdist
from tests.guarantees.models import dense, regression
from tests.guarantees.place import Place, main


def reductions(place: Place) -> Any:
    """`run` and `reduce`: replica r holds r + 1, or the rows (r + 1, 2 r + 2)."""
    strategy = place.strategy

    def number() -> tf.Tensor:
        context = tf.distribute.get_replica_context()
        return tf.cast(context.replica_id_in_sync_group, tf.float32) + 1.0

    def rows() -> tf.Tensor:
        return tf.stack([number(), 2.0 * number()])

    @tf.function
    def program() -> Any:
        scalar, vector = strategy.run(number), strategy.run(rows)
        return {
            "sum": strategy.reduce("SUM", scalar, axis=None),
            "mean": strategy.reduce("MEAN", scalar, axis=None),
            "sum of vectors": strategy.reduce("SUM", vector, axis=None),
            "sum of rows": strategy.reduce("SUM", vector, axis=0),
            "mean of rows": strategy.reduce("MEAN", vector, axis=0),
            "gathered": strategy.gather(vector, axis=0),
        }

    eager = strategy.run(rows)
    return {name: value.numpy() for name, value in program().items()} | {
        "eager sum": strategy.reduce("SUM", eager, axis=None).numpy(),
        "eager gathered": strategy.gather(eager, axis=0).numpy(),
    }


def inside_replica(place: Place) -> Any:
    """`all_reduce` and `all_gather` of the replica context, in several dtypes."""

    @tf.function
    def program() -> Any:
        def replica() -> dict[str, tf.Tensor]:
            context = tf.distribute.get_replica_context()
            number = context.replica_id_in_sync_group + 1
            return {
                dtype.name: context.all_reduce("SUM", tf.cast([number], dtype))
                for dtype in (tf.float16, tf.bfloat16, tf.float64, tf.int32, tf.int64)
            } | {"rows": context.all_gather(tf.fill([2, 1], number), axis=1)}

        return place.strategy.run(replica)

    results = program()
    return {
        name: tf.cast(place.strategy.experimental_local_results(value)[0], tf.float64)
        for name, value in results.items()
    }


def uneven_gather(place: Place) -> Any:
    """Replica r gives r + 1 rows."""

    def rows() -> tf.Tensor:
        context = tf.distribute.get_replica_context()
        number = tf.cast(context.replica_id_in_sync_group, tf.int32) + 1
        return tf.fill([number, 1], number)

    return place.strategy.gather(place.strategy.run(rows), axis=0).numpy()


def distributed_dataset(place: Place) -> Any:
    """All rows of the global batches 5, 5 and 1, as the replicas together saw them."""
    data = tf.data.Dataset.range(11).batch(5)
    distributed = place.strategy.experimental_distribute_dataset(data)
    return [place.strategy.gather(batch, axis=0).numpy() for batch in distributed]


def _from_function(place: Place, lengths: tuple[int, int]) -> Any:
    """Pipeline p gives `lengths[p]` batches of its number."""

    def pipeline(context: tf.distribute.InputContext) -> tf.data.Dataset:
        number = context.input_pipeline_id
        data = tf.data.Dataset.from_tensors(tf.fill([2], number + 1))
        return data.repeat(lengths[number])

    distributed = place.strategy.distribute_datasets_from_function(pipeline)
    return [place.strategy.gather(batch, axis=0).numpy() for batch in distributed]


def equal_pipelines(place: Place) -> Any:
    return _from_function(place, (2, 2))


def unequal_pipelines(place: Place) -> Any:
    return _from_function(place, (3, 1))


def training(place: Place, attached: bool = True) -> Any:
    """A loop with a tape: weights after training, and those of one process."""
    inputs, targets = regression(22)
    data = tf.data.Dataset.from_tensor_slices((inputs, targets)).batch(8)

    def make(attach: bool) -> Any:
        keras.utils.set_random_seed(3)
        model, optimizer = dense(3), keras.optimizers.SGD(0.1, clipnorm=0.05)
        if attach:
            return model, tfdist.gradients.attach(optimizer)
        # Not tfdist's `apply`, which would attach.
        own_apply = inspect.unwrap(keras.optimizers.Optimizer.apply)
        optimizer.apply = functools.partial(own_apply, optimizer)
        return model, optimizer

    def step(model: Any, optimizer: Any, x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = keras.losses.MeanSquaredError()(y, model(x, training=True))
        weights = model.trainable_variables
        optimizer.apply(tape.gradient(loss, weights), weights)
        return loss

    with place.strategy.scope():
        pair = make(attached)

    @tf.function
    def distributed_step(*batch: Any) -> Any:
        return place.strategy.run(lambda *own: step(*pair, *own), args=batch)

    for _ in range(3):
        for batch in place.strategy.experimental_distribute_dataset(data):
            distributed_step(*batch)
    alone = make(False)
    for _ in range(3):
        for batch in data:
            step(*alone, *batch)
    return [
        [weight.ravel() for weight in model.get_weights()] for model, _ in (pair, alone)
    ]


def plain_training(place: Place) -> Any:
    """The negative control: the same loop, with Keras's own path alone."""
    return training(place, attached=False)


if __name__ == "__main__":
    main(
        reductions,
        inside_replica,
        uneven_gather,
        distributed_dataset,
        equal_pipelines,
        unequal_pipelines,
        training,
        plain_training,
    )
