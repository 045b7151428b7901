"""Makes replicas differ in many ways, and reports what ReplicaConsistency says."""

import logging
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

import tfdist
from tests.guarantees.models import batches, compiled, regression
from tests.guarantees.place import Place, caught, main
from tests.parallel import peers

STEPS = 12  # of an epoch


def variables_of(model: keras.Model) -> list[keras.Variable]:
    return [*model.variables, *model.optimizer.variables]


class Harm(keras.callbacks.Callback):
    """Does something to the last replica alone, after a step."""

    def __init__(self, place: Place, step: int, action: Callable[..., None]) -> None:
        super().__init__()
        self.place, self.step, self.action = place, step, action
        self.steps = 0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.before = [variable.numpy() for variable in variables_of(self.model)]

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.steps += 1
        if self.steps == self.step:
            self.action(self)

    def assign(self, variable: keras.Variable, change: Callable[[Any], Any]) -> None:
        if self.place.rank < self.place.size - 1:
            return
        copies = self.model.distribute_strategy.experimental_local_results(
            variable.value
        )
        copies[-1].assign(change(copies[-1].numpy()))


def flip_bit(harm: Harm) -> None:
    """The last bit of one weight."""

    def flipped(value: np.ndarray) -> np.ndarray:
        value.view(np.int32).reshape(-1)[0] ^= 1
        return value

    harm.assign(harm.model.trainable_variables[0], flipped)


def skip_update(harm: Harm) -> None:
    for variable, value in zip(variables_of(harm.model), harm.before, strict=True):
        harm.assign(variable, lambda now, value=value: value)


def load_other_weights(harm: Harm) -> None:
    for number, variable in enumerate(harm.model.trainable_variables):
        draws = np.random.default_rng(number)
        harm.assign(variable, lambda now, draws=draws: draws.normal(size=now.shape))


def change_slot(harm: Harm) -> None:
    slots = [v for v in harm.model.optimizer.variables if "momentum" in v.path]
    harm.assign(slots[0], lambda now: now + 0.25)


def change_statistics(harm: Harm) -> None:
    """Of a BatchNormalization that is synchronised, and must not differ at any time."""
    statistics = harm.model.non_trainable_variables
    harm.assign(statistics[0], lambda now: now + 0.5)


def nothing(harm: Harm) -> None:
    """The negative control."""


HARMS = (
    flip_bit,
    skip_update,
    load_other_weights,
    change_slot,
    change_statistics,
    nothing,
)


def model_of(place: Place) -> keras.Model:
    layers = keras.layers
    with place.strategy.scope():
        model = keras.Sequential(
            [
                keras.Input((4,)),
                layers.Dense(3),
                layers.BatchNormalization(synchronized=True),
                layers.Dropout(0.2),
                layers.Dense(1),
            ]
        )
        model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse")
    return model


class Told(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def run(place: Place, harm: Callable[..., None], action: str) -> dict[str, Any]:
    """Return what training ends with, when the harm is done after step 7 of 24."""
    model = model_of(place)
    told = Told()
    logging.getLogger("tfdist").addHandler(told)
    consistency = tfdist.callbacks.ReplicaConsistency(every=5, action=action)
    harmed = Harm(place, 7, harm)
    outcome = caught(
        lambda: model.fit(
            batches(rows=8 * STEPS),
            epochs=2,
            verbose=0,
            callbacks=[harmed, consistency],
        )
    )
    logging.getLogger("tfdist").removeHandler(told)
    copies = [
        [np.asarray(copy).astype("float64") for copy in parts]
        for parts in map(
            lambda v: place.strategy.experimental_local_results(v.value),
            variables_of(model),
        )
    ]
    sums = [[float(part.sum()) for part in parts] for parts in copies]
    return outcome | {
        "steps": harmed.steps,
        "told": told.texts,
        "state": consistency.get_state(),
        "sums": sums,
    }


def raised(place: Place) -> Any:
    return {harm.__name__: run(place, harm, "raise") for harm in HARMS}


def warned(place: Place) -> Any:
    return run(place, change_slot, "warn")


def repaired(place: Place) -> Any:
    return run(place, load_other_weights, "repair")


def late_statistics(place: Place) -> Any:
    """Plain statistics that still differ when the epoch has ended."""
    with place.strategy.scope():
        norm = keras.layers.BatchNormalization()
        model = keras.Sequential([keras.Input((4,)), norm, keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.05), "mse")
    harm = Harm(place, 0, nothing)
    harm.set_model(model)

    def at_the_end(epoch: int, logs: Any) -> None:
        harm.assign(norm.moving_mean, lambda now: now + 1)

    late = keras.callbacks.LambdaCallback(on_epoch_end=at_the_end)
    every = tfdist.callbacks.ReplicaConsistency(every=1)
    return caught(lambda: model.fit(batches(), verbose=0, callbacks=[late, every]))


def late_local_steps(place: Place) -> Any:
    """LocalSGD's outer weights, which may not differ even between exchanges."""
    model = compiled(place.strategy)
    local = tfdist.callbacks.LocalSGD(4)
    harm = Harm(place, 2, lambda harm: harm.assign(outer()[0], lambda now: now + 1))

    def outer() -> list[keras.Variable]:
        return local._outer.variables

    every = tfdist.callbacks.ReplicaConsistency(every=1)
    data = batches(rows=64)
    return caught(lambda: model.fit(data, verbose=0, callbacks=[local, harm, every]))


def other_arguments(place: Place) -> Any:
    """Ranks that were given different intervals."""
    model = compiled(place.strategy)
    every = tfdist.callbacks.ReplicaConsistency(every=5 + place.rank)
    return caught(lambda: model.fit(batches(), verbose=0, callbacks=[every]))


def stock_horovod(place: Place) -> Any:
    """A script that ports plain Keras as Horovod's documentation says."""
    peers.use_stock_horovod()
    every = tfdist.callbacks.ReplicaConsistency(every=5)
    inputs, targets = regression(64)

    def fit(callbacks: list, **options: Any) -> dict[str, Any]:
        keras.utils.set_random_seed(1)
        layers = keras.layers
        model = keras.Sequential(
            [keras.Input((4,)), layers.Dropout(0.1 * place.rank), layers.Dense(1)]
        )
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
        outcome = caught(
            lambda: model.fit(
                inputs, targets, batch_size=8, verbose=0, callbacks=callbacks, **options
            )
        )
        return outcome | {"steps": int(model.optimizer.iterations.numpy())}

    return {
        "stock": fit([every]),
        "without the callback": fit([]),
        "repaired": fit([tfdist.callbacks.ReplicaConsistency(1, "repair")]),
    }


def plain_horovod(place: Place) -> Any:
    """Plain Keras, whose ranks do the same all the same; and then do not."""
    inputs, targets = regression(64)

    def fit(units: int = 2, rows: int = 64) -> dict[str, Any]:
        keras.utils.set_random_seed(1)
        layers = [keras.layers.Dense(units), keras.layers.Dense(1)]
        model = keras.Sequential([keras.Input((4,)), *layers])
        model.compile(keras.optimizers.SGD(0.1), "mse")
        every = tfdist.callbacks.ReplicaConsistency(every=8)
        data = (inputs[:rows], targets[:rows])
        options: dict[str, Any] = {"batch_size": 8, "shuffle": False, "verbose": 0}
        return caught(lambda: model.fit(*data, callbacks=[every], **options))

    return {
        "alike": fit(),
        "steps": fit(rows=64 - 8 * place.rank),
        "models": fit(units=2 + place.rank),
    }


if __name__ == "__main__":
    main(
        raised,
        warned,
        repaired,
        late_statistics,
        late_local_steps,
        other_arguments,
        stock_horovod,
        plain_horovod,
    )
