"""Makes the mistakes of a user, and reports what each of them was told."""

import os
import sys
from collections.abc import Callable
from typing import Any
from unittest import mock

import keras
import numpy as np
import tensorflow as tf

import tfdist
from tests.guarantees.models import batches, compiled, dense, regression
from tests.guarantees.place import Place, caught, main


def refused(model: keras.Model, action: Callable[[], Any]) -> dict[str, Any]:
    """Return what the action raised, and whether the model's weights have moved."""
    before = model.get_weights()
    outcome = caught(action)
    after = model.get_weights()
    return outcome | {"moved": not all(map(np.array_equal, before, after))}


def unknown_name(place: Place) -> Any:
    return caught(lambda: tfdist.strategy("horovd"))


def wrong_option(place: Place) -> Any:
    return caught(lambda: tfdist.strategy(place.kind, device_count=2))


def malformed_tf_config(place: Place) -> Any:
    # Not JSON, no task, an index beyond the cluster.
    texts = [
        '{"cluster": {"worker": ["a:1"',
        '{"cluster": {"worker": ["a:1", "b:1"]}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 3}}',
    ]
    outcomes = []
    for text in texts:
        environment = {k: v for k, v in os.environ.items() if "RANK" not in k}
        with mock.patch.dict(os.environ, environment | {"TF_CONFIG": text}, clear=True):
            outcomes.append(caught(lambda: tfdist.strategy("multiworker")))
    return outcomes


def no_horovod(place: Place) -> Any:
    with mock.patch.dict(sys.modules, {"horovod.tensorflow": None}):
        return caught(lambda: tfdist.strategy("horovod"))


def empty_arrays(place: Place) -> Any:
    model = compiled(place.strategy)
    inputs, targets = regression(0)
    return refused(model, lambda: model.fit(inputs, targets, verbose=0))


def empty_dataset(place: Place) -> Any:
    model = compiled(place.strategy)
    return refused(model, lambda: model.fit(batches(rows=0), verbose=0))


def empty_filter(place: Place) -> Any:
    """Nobody can know before that no example passes."""
    model = compiled(place.strategy)
    data = batches().unbatch().filter(lambda x, y: x[0] > 1e6).batch(8)
    return refused(model, lambda: model.fit(data, verbose=0))


def endless_training(place: Place) -> Any:
    model = compiled(place.strategy)
    return refused(model, lambda: model.fit(batches().repeat(), verbose=0))


def endless_validation(place: Place) -> Any:
    model = compiled(place.strategy)
    endless = batches().repeat()
    return refused(
        model, lambda: model.fit(batches(), validation_data=endless, verbose=0)
    )


def outside_scope(place: Place) -> Any:
    assert place.strategy
    model = dense(3)
    model.compile("sgd", "mse")
    return refused(model, lambda: model.fit(batches(), verbose=0))


def shared_optimizer(place: Place) -> Any:
    first = compiled(place.strategy)
    first.fit(batches(), verbose=0)
    second = compiled(place.strategy, optimizer=first.optimizer)
    return refused(second, lambda: second.fit(batches(), verbose=0))


def optimizer_outside(place: Place) -> Any:
    assert place.strategy
    model = compiled(place.strategy, optimizer=keras.optimizers.SGD(0.1))
    return refused(model, lambda: model.fit(batches(), verbose=0))


def metric_outside(place: Place) -> Any:
    assert place.strategy
    model = compiled(place.strategy, metrics=[keras.metrics.AUC()])
    return refused(model, lambda: model.fit(batches(), verbose=0))


def compiled_by_xla(place: Place) -> Any:
    model = compiled(place.strategy, jit_compile=True)
    return refused(model, lambda: model.fit(batches(), verbose=0))


def unknown_regularizer(place: Place) -> Any:
    class Mine(keras.regularizers.Regularizer):
        def __call__(self, x: Any) -> Any:
            return tf.reduce_mean(x)

    with place.strategy.scope():
        layers = [keras.layers.Dense(2, activity_regularizer=Mine())]
        model = keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(1)])
        model.compile("sgd", "mse")
    return refused(model, lambda: model.fit(batches(), verbose=0))


def sharded_by_files(place: Place) -> Any:
    options = tf.data.Options()
    policy = tf.data.experimental.AutoShardPolicy.FILE
    options.experimental_distribute.auto_shard_policy = policy
    model = compiled(place.strategy)
    data = batches().with_options(options)
    return refused(model, lambda: model.fit(data, verbose=0))


def unbatched(place: Place) -> Any:
    inputs, targets = regression()
    data = tf.data.Dataset.from_tensor_slices((inputs, targets[:, 0]))
    model = compiled(place.strategy)
    return refused(model, lambda: model.fit(data, verbose=0))


def unknown_length(place: Place) -> Any:
    model = compiled(place.strategy)

    def examples(context: tf.distribute.InputContext) -> tf.data.Dataset:
        return batches(size=4).filter(lambda x, y: True)

    def distribute() -> None:
        data = place.strategy.distribute_datasets_from_function(examples)
        model.fit(data, verbose=0)

    return refused(model, distribute)


def fit_with(place: Place, *callbacks: keras.callbacks.Callback) -> Any:
    model = compiled(place.strategy)
    return refused(
        model, lambda: model.fit(batches(), verbose=0, callbacks=list(callbacks))
    )


def compressed_twice(place: Place) -> Any:
    kind = tfdist.callbacks.GradientCompression
    return fit_with(place, kind("topk", ratio=0.1), kind("fp16", start_step=50))


def local_steps_too_late(place: Place) -> Any:
    callbacks = tfdist.callbacks
    return fit_with(place, callbacks.GradientCompression(), callbacks.LocalSGD(2))


def local_steps_with_average(place: Place) -> Any:
    with place.strategy.scope():
        optimizer = keras.optimizers.SGD(0.1, use_ema=True)
    model = compiled(place.strategy, optimizer=optimizer)
    callbacks = [tfdist.callbacks.LocalSGD(2)]
    return refused(model, lambda: model.fit(batches(), verbose=0, callbacks=callbacks))


def nothing_to_compress(place: Place) -> Any:
    model = compiled(place.strategy)
    model.trainable = False
    callbacks = [tfdist.callbacks.GradientCompression("fp16")]
    return refused(model, lambda: model.fit(batches(), verbose=0, callbacks=callbacks))


def long_warm_up(place: Place) -> Any:
    model = compiled(place.strategy)
    scaling = tfdist.callbacks.LearningRateScaling(warmup_epochs=3)
    return refused(
        model, lambda: model.fit(batches(), callbacks=[scaling], epochs=2, verbose=0)
    )


def precise_twice(place: Place) -> Any:
    kind = tfdist.callbacks.MixedPrecision
    return fit_with(place, kind("mixed_bfloat16"), kind("float32"))


def measured_twice(place: Place) -> Any:
    kind = tfdist.callbacks.Telemetry
    return fit_with(place, kind(), kind(every=5))


def unwritable_log_dir(place: Place) -> Any:
    return fit_with(place, tfdist.callbacks.Telemetry("/dev/null/runs"))


def two_loss_scales(place: Place) -> Any:
    scaled = keras.optimizers.LossScaleOptimizer
    with place.strategy.scope():
        optimizer = scaled(scaled(keras.optimizers.SGD(0.1)))
    model = compiled(place.strategy, optimizer=optimizer)
    callbacks = [tfdist.callbacks.MixedPrecision("mixed_float16")]
    return refused(model, lambda: model.fit(batches(), verbose=0, callbacks=callbacks))


class Unscaled(keras.Sequential):
    """Does not call `optimizer.scale_loss` in its own step."""

    def train_step(self, data: Any) -> dict[str, Any]:
        inputs, targets = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(y=targets, y_pred=self(inputs, training=True))
        weights = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        return {"loss": loss}


def forgotten_scale(place: Place) -> Any:
    with place.strategy.scope():
        model = Unscaled([keras.Input((4,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.1), "mse")
    callbacks = [tfdist.callbacks.MixedPrecision("mixed_float16", keep_float32=[])]
    return refused(model, lambda: model.fit(batches(), verbose=0, callbacks=callbacks))


def unknown_policy(place: Place) -> Any:
    return caught(lambda: tfdist.callbacks.MixedPrecision("mixed_flaot16"))


def nothing_wrong(place: Place) -> Any:
    """The negative control: the same measurement of a fit that trains."""
    model = compiled(place.strategy)
    return refused(model, lambda: model.fit(batches(), verbose=0))


EVERYWHERE = (
    unknown_name,
    wrong_option,
    malformed_tf_config,
    empty_arrays,
    empty_dataset,
    empty_filter,
    endless_training,
    endless_validation,
    outside_scope,
    shared_optimizer,
    optimizer_outside,
    metric_outside,
    compiled_by_xla,
    unknown_regularizer,
    unbatched,
    compressed_twice,
    local_steps_too_late,
    local_steps_with_average,
    nothing_to_compress,
    long_warm_up,
    precise_twice,
    measured_twice,
    unwritable_log_dir,
    two_loss_scales,
    forgotten_scale,
    unknown_policy,
    nothing_wrong,
)
PROCESSES = (sharded_by_files, unknown_length)  # mistakes only among several processes

if __name__ == "__main__":
    main(*EVERYWHERE, *PROCESSES, no_horovod)
