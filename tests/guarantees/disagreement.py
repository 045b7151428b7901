"""Makes ranks disagree, and reports what each of them was told, and how soon."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tfdist
from tests.guarantees.models import batches, compiled, dense, regression
from tests.guarantees.place import Place, caught, main


def fails(place: Place, action: Callable[[tf.distribute.Strategy], Any]) -> Any:
    """Run an action that fails, under a strategy of its own."""
    strategy = place.connect()
    return caught(lambda: action(strategy))


def other_model(place: Place) -> Any:
    def act(strategy: tf.distribute.Strategy) -> None:
        compiled(strategy, [3 + place.rank]).fit(batches(), verbose=0)

    return fails(place, act)


def other_dtype(place: Place) -> Any:
    def act(strategy: tf.distribute.Strategy) -> None:
        keras.config.set_dtype_policy(("float32", "float64")[place.rank])
        try:
            model = compiled(strategy)
        finally:
            keras.config.set_dtype_policy("float32")
        model.fit(batches(), verbose=0)

    return fails(place, act)


def other_optimizer(place: Place) -> Any:
    optimizer = (keras.optimizers.SGD, keras.optimizers.Lion)[place.rank]

    def act(strategy: tf.distribute.Strategy) -> None:
        with strategy.scope():
            model = dense(3)
            model.compile(optimizer(0.1), "mse")
        model.fit(batches(), verbose=0)

    return fails(place, act)


def other_epochs(place: Place) -> Any:
    return fails(
        place, lambda s: compiled(s).fit(batches(), epochs=2 + place.rank, verbose=0)
    )


def other_steps(place: Place) -> Any:
    data = batches(rows=16 + 8 * place.rank)
    return fails(place, lambda s: compiled(s).fit(data, verbose=0))


def other_order(place: Place) -> Any:
    data = batches().shuffle(2, seed=1 + place.rank)
    return fails(place, lambda s: compiled(s).fit(data, verbose=0))


def other_records(place: Place) -> Any:
    """The ranks' files are in different folders, which is no difference."""
    folder = place.out / f"records-{place.rank}"
    folder.mkdir()
    with tf.io.TFRecordWriter(str(folder / "part-0")) as writer:
        for values in np.concatenate(regression(), axis=1):
            writer.write(values.tobytes())

    def parse(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        values = tf.ensure_shape(tf.io.decode_raw(record, tf.float32), [5])
        return values[:4], values[4:]

    def act(strategy: tf.distribute.Strategy) -> None:
        with strategy.scope():
            data, steps = tfdist.data.from_tfrecords(
                str(folder / "*"), parse, 8, seed=5 + place.rank, shard="records"
            )
        compiled(strategy).fit(data, steps_per_epoch=steps, verbose=0)

    return fails(place, act)


def other_call(place: Place) -> Any:
    def act(strategy: tf.distribute.Strategy) -> None:
        model = compiled(strategy)
        call = (model.evaluate, model.predict)[place.rank]
        call(batches(), verbose=0)

    return fails(place, act)


def other_compressor(place: Place) -> Any:
    ratio = (0.1, 0.2)[place.rank]
    callbacks = [tfdist.callbacks.GradientCompression("topk", ratio=ratio)]
    return fails(
        place, lambda s: compiled(s).fit(batches(), verbose=0, callbacks=callbacks)
    )


def other_rate(place: Place) -> Any:
    def act(strategy: tf.distribute.Strategy) -> None:
        scaling = tfdist.callbacks.LearningRateScaling(
            reference_batch_size=4 - 2 * place.rank, warmup_epochs=1
        )
        compiled(strategy).fit(batches(), callbacks=[scaling], verbose=0)

    return fails(place, act)


def other_precision(place: Place) -> Any:
    def act(strategy: tf.distribute.Strategy) -> None:
        policy = ("mixed_bfloat16", "float32")[place.rank]
        precision = tfdist.callbacks.MixedPrecision(policy)
        compiled(strategy).fit(batches(), callbacks=[precision], verbose=0)

    return fails(place, act)


def other_telemetry(place: Place) -> Any:
    def act(strategy: tf.distribute.Strategy) -> None:
        telemetry = tfdist.callbacks.Telemetry(every=10 + place.rank)
        compiled(strategy).fit(batches(), callbacks=[telemetry], verbose=0)

    return fails(place, act)


def extra_model(place: Place) -> Any:
    """No disagreement: rank 0 alone builds models, and even calls one of them."""
    strategy = place.connect()
    if place.rank == 0:
        extra = compiled(strategy, [5, 5])
        extra(regression()[0])
    model = compiled(strategy)
    history = model.fit(batches(), epochs=2, verbose=0).history
    return {"loss": history["loss"], "weights": model.get_weights()}


def predicts_outside(place: Place) -> Any:
    """Rank 0 alone asks a model of no strategy; then all train together."""
    strategy = place.connect()
    outcome = {}
    if place.rank == 0:
        outcome = caught(lambda: dense(3).predict(regression()[0], verbose=0))
    loss = compiled(strategy).fit(batches(), verbose=0).history["loss"]
    return {"outcome": outcome, "loss": loss}


def evaluates_alone(place: Place) -> Any:
    """Rank 0 goes on to evaluate; the script of rank 1 is over."""
    strategy = place.connect()
    model = compiled(strategy)
    model.fit(batches(), verbose=0)
    if place.rank == 1:
        return {}
    return caught(lambda: model.evaluate(batches(), verbose=0))


def evaluates_in_callback(place: Place) -> Any:
    """Rank 0 evaluates in the middle of an epoch in which rank 1 trains on."""

    def evaluate(batch: int, logs: Any) -> None:
        if place.rank == 0 and batch == 2:
            model.evaluate(batches(), verbose=0)

    strategy = place.connect()
    model = compiled(strategy)
    callback = keras.callbacks.LambdaCallback(on_train_batch_end=evaluate)
    data = batches().repeat(50)
    return caught(lambda: model.fit(data, callbacks=[callback], verbose=0))


def _fit_that_breaks_on_rank_1(place: Place) -> None:
    def fail(batch: int, logs: Any) -> None:
        if place.rank == 1 and batch == 2:
            raise ZeroDivisionError("the user's own callback")

    callback = keras.callbacks.LambdaCallback(on_train_batch_end=fail)
    model = compiled(place.connect())
    model.fit(batches().repeat(50), callbacks=[callback], verbose=0)


def raises(place: Place) -> Any:
    """Rank 1 gives up in the middle of an epoch, and its script ends in order."""
    return caught(lambda: _fit_that_breaks_on_rank_1(place))


def raises_uncaught(place: Place) -> Any:
    """Rank 1 ends with a traceback, as most scripts do."""
    if place.rank == 1:
        _fit_that_breaks_on_rank_1(place)
    return caught(lambda: _fit_that_breaks_on_rank_1(place))


def unknown_steps(place: Place) -> Any:
    """Rank 1's data, of a length that nobody can know, end sooner than rank 0's."""
    last = 30 - 10 * place.rank
    data = batches(rows=8).repeat(50).enumerate()
    data = data.take_while(lambda number, batch: number < last)
    data = data.map(lambda number, batch: batch)
    model = compiled(place.connect())
    return caught(lambda: model.fit(data, verbose=0))


if __name__ == "__main__":
    main(
        other_model,
        other_dtype,
        other_optimizer,
        other_epochs,
        other_steps,
        other_order,
        other_records,
        other_call,
        other_compressor,
        other_rate,
        other_telemetry,
        other_precision,
        extra_model,
        predicts_outside,
        evaluates_alone,
        evaluates_in_callback,
        raises,
        raises_uncaught,
        unknown_steps,
    )
