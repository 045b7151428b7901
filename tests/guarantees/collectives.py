"""Counts the collectives in the traced training step of `fit`."""

import inspect
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tests.guarantees.models import batches, compiled, regression
from tests.guarantees.place import Place, main

COLLECTIVES = ("HorovodAll", "HorovodBroadcast", "CollectiveReduce", "CollectiveGather")


def collectives(function: tf.types.experimental.PolymorphicFunction) -> list[dict]:
    """Return each collective of a traced function, however deep it stands."""
    (traced,) = function._list_all_concrete_functions()
    graph = traced.graph.as_graph_def()
    bodies = {body.signature.name: body.node_def for body in graph.library.function}
    return list(_walk(graph.node, bodies, ()))


def _walk(nodes: Any, bodies: dict, callers: tuple[str, ...]) -> Iterator[dict]:
    for node in nodes:
        if node.op.startswith(COLLECTIVES):
            yield {"op": node.op, "name": node.name, "within": callers}
        for attribute in node.attr.values():
            for function in (attribute.func, *attribute.list.func):
                if function.name:
                    inner = bodies[function.name]
                    yield from _walk(inner, bodies, (*callers, node.op))


def fitted(model: keras.Model, data: Any, **options: Any) -> list[dict]:
    model.fit(data, epochs=1, verbose=0, **options)
    # Keras hides the traced function in a plain one, which takes an iterator.
    hidden = inspect.getclosurevars(model.train_function).nonlocals
    return collectives(hidden["multi_step_on_iterator"])


def plain(place: Place) -> Any:
    return fitted(compiled(place.strategy), batches())


def arrays(place: Place) -> Any:
    inputs, targets = regression()
    model = compiled(place.strategy)
    return fitted(model, inputs, y=targets, batch_size=8, shuffle=False)


def many_variables(place: Place) -> Any:
    return fitted(compiled(place.strategy, [3] * 12), batches())


def many_metrics(place: Place) -> Any:
    with place.strategy.scope():
        metrics = ["mae", "mse", "mape", keras.metrics.AUC(), "cosine_similarity"]
    return fitted(compiled(place.strategy, metrics=metrics), batches())


def uneven(place: Place) -> Any:
    return fitted(
        compiled(place.strategy), batches(rows=15, size=5, drop_remainder=False)
    )


def loss_scaling(place: Place) -> Any:
    with place.strategy.scope():
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))
    return fitted(compiled(place.strategy, optimizer=optimizer), batches())


def two_embeddings(place: Place) -> Any:
    ids = np.arange(16).reshape(8, 2).astype("int32") % 5
    with place.strategy.scope():
        inputs = keras.Input((2,), dtype="int32")
        vectors = [keras.layers.Embedding(size, 4)(inputs) for size in (5, 9)]
        joined = keras.layers.Flatten()(keras.layers.Concatenate()(vectors))
        model = keras.Model(inputs, keras.layers.Dense(1)(joined))
        model.compile("sgd", "mse")
    data = tf.data.Dataset.from_tensor_slices((ids, np.ones((8, 1), "float32")))
    return fitted(model, data.batch(4, drop_remainder=True))


def accumulation(place: Place) -> Any:
    with place.strategy.scope():
        optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    return fitted(compiled(place.strategy, optimizer=optimizer), batches())


def several_steps(place: Place) -> Any:
    model = compiled(place.strategy, steps_per_execution=2)
    return fitted(model, batches(rows=32))


def separate(place: Place) -> Any:
    """The negative control: one reduction for each variable, as a user may write it."""
    model = compiled(place.strategy, [3] * 12)

    @tf.function
    def train_step(inputs: Any) -> Any:
        def step() -> Any:
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(model(inputs))
            context = tf.distribute.get_replica_context()
            return [
                context.all_reduce("SUM", gradient)
                for gradient in tape.gradient(loss, model.trainable_variables)
            ]

        return place.strategy.run(step)

    train_step(tf.constant(regression()[0]))
    return collectives(train_step)


if __name__ == "__main__":
    main(
        plain,
        arrays,
        many_variables,
        many_metrics,
        uneven,
        loss_scaling,
        two_embeddings,
        accumulation,
        several_steps,
        separate,
    )
