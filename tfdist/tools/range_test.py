"""The learning-rate range test: which rates a model learns with at all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tfdist import cluster
from tfdist.arguments import checked_integer, checked_number
from tfdist.errors import explain
from tfdist.gradients import keras_names
from tfdist.tools.range_plot import check_file, draw

_SMOOTHING = 0.9  # of the moving average of losses
_DIVERGED = 4.0  # times the lowest loss
_SET_BY_FIT = ("history", "stop_training")  # attributes of a model


@dataclass(frozen=True)
class RangeTest:
    """What a range test has found; `print` shows it as a table.

    Attributes:
        rates: The rate of each step, rising.
        losses: The loss of the batch after that step.
        smoothed: The moving average of the losses.
        suggestion: The rate at which the loss falls fastest, or None where it does
            not fall.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggestion: float | None

    def __str__(self) -> str:
        lines = [f"{'rate':>10} {'loss':>12} {'smoothed':>12}"]
        for rate, loss, mean in zip(
            self.rates, self.losses, self.smoothed, strict=True
        ):
            mark = "  <- falls fastest" if rate == self.suggestion else ""
            lines.append(f"{rate:10.3g} {loss:12.5g} {mean:12.5g}{mark}")
        return "\n".join(lines)


def lr_range_test(
    model: keras.Model,
    dataset: tf.data.Dataset,
    *,
    smallest: float = 1e-6,
    largest: float = 10.0,
    steps: int = 100,
    plot: str | Path | None = None,
) -> RangeTest:
    """Trains some steps with a rising learning rate, and takes it all back.

    Run it once before training, with the global batch that you will train with: the
    loss falls fastest at a good rate and rises where the rate is too large. The rate
    grows by the same factor in each step; the test ends early where the moving average
    of the loss is four times its lowest. Weights, the optimizer, random states and
    metrics are afterwards what they were, bit for bit, on every replica.

    Args:
        model: A built and compiled model, under any strategy.
        dataset: Batches of the global batch size; repeated as often as needed.
        smallest: The rate of the first step.
        largest: The rate of the last step.
        steps: The number of steps.
        plot: A PNG to write on the chief; needs matplotlib.

    Returns:
        The rates and losses, equal on all ranks.

    Raises:
        ValueError: Rates that do not rise, too few steps, a model that is not built
            and compiled, a file that cannot be written.
        TypeError: The data is not a dataset.
        ImportError: A plot is asked for and matplotlib is missing.

    References:
        Smith, Cyclical learning rates for training neural networks,
        arXiv:1506.01186, 2015 (section 3.3).

    Example:
        >>> found = tfdist.tools.lr_range_test(model, dataset, plot="rates.png")
        >>> print(found)
    """
    _check(model, dataset, smallest, largest, steps)
    if plot is not None:
        check_file(plot)
    growth = (largest / smallest) ** (1 / (steps - 1))
    with _restored(model):
        watch = _Losses()
        with _rising(model, smallest, growth):
            model.fit(
                dataset.repeat(),
                steps_per_epoch=steps + 1,
                shuffle=False,
                verbose=0,
                callbacks=[watch],
            )
    losses = watch.losses[1:]
    if not losses:
        raise ValueError(
            explain(
                "The range test has no loss to show",
                received=f"the loss {watch.losses[0]} before its first step"
                if watch.losses
                else "a dataset without batches",
                expected="batches to train on, and finite losses",
                hint="Look at the data: next(iter(dataset)).",
            )
        )
    rates = [smallest * growth**step for step in range(len(losses))]
    smoothed = moving_average(losses)
    found = RangeTest(
        tuple(rates), tuple(losses), tuple(smoothed), suggested(rates, losses)
    )
    if plot is not None and cluster.is_chief():
        draw(found, Path(plot))
    return found


def moving_average(values: list[float]) -> list[float]:
    """Returns the exponential moving average, unbiased from the first value on."""
    results, total = [], 0.0
    for count, value in enumerate(values, start=1):
        total = _SMOOTHING * total + (1 - _SMOOTHING) * value
        results.append(total / (1 - _SMOOTHING**count))
    return results


def suggested(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """Returns the rate at which the loss falls fastest, over the rate's logarithm.

    The slope is that of a line through a quarter of all losses: single batches are
    too noisy. None where no line falls.
    """
    reach = max(len(losses) // 8, 1)
    slopes = []
    for middle in range(reach, len(losses) - reach):
        around = losses[middle - reach : middle + reach + 1]
        slope = sum(
            d * v for d, v in zip(range(-reach, reach + 1), around, strict=True)
        )
        if slope < 0:  # not with NaN
            slopes.append((slope, rates[middle]))
    return min(slopes)[1] if slopes else None


class _Losses(keras.callbacks.Callback):
    """Records the loss of every batch by itself, and ends where it diverges."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.model.reset_metrics()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.losses.append(float((logs or {})["loss"]))
        means = moving_average(self.losses)  # single batches are too noisy
        if not means[-1] <= _DIVERGED * abs(min(means)):  # not with NaN, either
            self.model.stop_training = True


@contextlib.contextmanager
def _rising(model: Any, smallest: float, growth: float) -> Iterator[None]:
    """Makes the rate rise in every step of the model's optimizer."""
    optimizer = keras_names.innermost(model.optimizer)
    own, executions = keras_names.rate_of(optimizer), model.steps_per_execution
    begin = int(keras.ops.convert_to_numpy(optimizer._iterations))

    def rate() -> tf.Tensor:
        step = tf.cast(optimizer._iterations.value - begin, tf.float64)
        return tf.cast(smallest * growth**step, tf.float32)

    attributes = vars(optimizer)  # past Keras's tracking of variables
    attributes["_learning_rate"] = rate
    model.steps_per_execution = 1  # each step's loss is to be seen
    model.train_function = None
    try:
        yield
    finally:
        attributes["_learning_rate"] = own
        model.steps_per_execution = executions
        model.train_function = None  # traced with the rising rate


@contextlib.contextmanager
def _restored(model: Any) -> Iterator[None]:
    """Gives every variable, on every replica, its value back at the end."""
    strategy = model.distribute_strategy
    if not model.optimizer.built:
        with strategy.scope():
            model.optimizer.build(model.trainable_variables)
    known = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    copies = [
        copy
        for variable in known
        for copy in strategy.experimental_local_results(variable.value)
    ]
    values = [copy.numpy() for copy in copies]
    attributes = vars(model)
    kept = {name: attributes[name] for name in _SET_BY_FIT if name in attributes}
    trial = getattr(strategy, "trial", contextlib.nullcontext)
    try:
        with trial():
            yield
    finally:
        model.reset_metrics()  # also those that came into being meanwhile
        for copy, value in zip(copies, values, strict=True):
            copy.assign(value)
        for name in _SET_BY_FIT:
            attributes.pop(name, None)
        attributes.update(kept)


def _check(
    model: Any, dataset: Any, smallest: float, largest: float, steps: int
) -> None:
    if not isinstance(dataset, tf.data.Dataset):
        raise TypeError(
            explain(
                "The range test needs a dataset",
                received=type(dataset).__name__,
                expected="a tf.data.Dataset of batches",
                hint="tf.data.Dataset.from_tensor_slices((x, y)).batch(256)",
            )
        )
    checked_integer("steps", steps, least=2)
    checked_number("smallest", smallest, above=0.0)
    checked_number("largest", largest, above=0.0)
    if not smallest < largest:
        raise ValueError(
            explain(
                "The learning rates of a range test have to rise",
                received=f"smallest={smallest!r}, largest={largest!r}",
                expected="smallest < largest",
                hint="Leave them out: from 1e-6 to 10 in 100 steps.",
            )
        )
    optimizer = getattr(model, "optimizer", None)
    built = getattr(model, "built", False)
    if not built or optimizer is None or hasattr(optimizer, "optimizers"):
        raise ValueError(
            explain(
                "The range test cannot restore a model that does not exist yet",
                received=f"built={built}, optimizer={optimizer!r}",
                expected="a built model, compiled with one optimizer",
                hint="Begin the model with keras.Input((features,)), or call "
                "model.build(shape); then model.compile(...).",
            )
        )
    keras_names.require(keras_names.innermost(optimizer), keras_names.RATE)
