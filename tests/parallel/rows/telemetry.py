"""Telemetry: training stays what it is, and the slow rank is named."""

import time
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tests.parallel.registry import Needs, Results, row
from tests.parallel.setting import GLOBAL_BATCH, Setting
from tests.parallel.training import (
    compile_under,
    outcome,
    perceptron,
    regression,
    sgd,
    train,
)

DELAY = 0.1  # seconds; far above what another process makes a step wait
MEASURED = (
    "examples_per_second",
    "step_ms",
    "input_ms",
    "communication_ms",
    "slowest_rank",
    "bytes_per_step",
    "memory_mb",
    "learning_rate",
    "loss_scale",
)

telemetry_row = partial(row, needs=Needs.TFDIST)


def without_figures(setting: Setting, results: Results) -> tuple[Results, Results]:
    """Return what has to equal one process's, and what was measured."""
    figures = {
        name: results.pop(f"history/{name}")
        for name in MEASURED
        if f"history/{name}" in results
    }
    parts = figures["input_ms"] + figures["communication_ms"]
    assert np.all(figures["examples_per_second"] > 0)
    assert np.all(parts >= 0) and np.all(parts < figures["step_ms"])
    travels = setting.replicas > 1
    assert np.all((figures["bytes_per_step"] > 0) == travels)
    assert np.all((figures["communication_ms"] > 0) == travels)
    return results, figures


@telemetry_row("Telemetry with files, partial batch, clipping, validation")
def telemetry_files(setting: Setting) -> Results:
    import tfdist
    from tfdist.telemetry import table

    telemetry = tfdist.callbacks.Telemetry(setting.directory / "telemetry", every=2)
    results = train(
        setting,
        optimizer=lambda: sgd(global_clipnorm=0.05),
        data=regression(57),
        validation_data=regression(33),
        callbacks=[telemetry],
    )
    results, figures = without_figures(setting, results)
    setting.barrier()
    rows = table.read(setting.directory / "telemetry" / table.FILE)
    found = [each for each in rows if each.scope == table.EPOCH and each.rank is None]
    np.testing.assert_allclose(
        [each.step_ms for each in found], figures["step_ms"], rtol=1e-6
    )
    ranks = {each.rank for each in rows}
    assert ranks == {None, *range(max(setting.size, 1))}
    assert telemetry.get_state()["steps"] == 8
    return results


@telemetry_row("Telemetry, steps per execution, accumulation 2, float16, compression")
def telemetry_inside_conditions(setting: Setting) -> Results:
    import tfdist

    results = train(
        setting,
        optimizer=lambda: keras.optimizers.LossScaleOptimizer(
            sgd(gradient_accumulation_steps=2)
        ),
        compiled={"steps_per_execution": 3},
        epochs=3,
        callbacks=[
            tfdist.callbacks.Telemetry(),
            tfdist.callbacks.GradientCompression(
                "topk", ratio=1.0, start_step=4, min_size=0, log=False
            ),
        ],
    )
    results, _ = without_figures(setting, results)
    return results


class Delay(keras.callbacks.Callback):
    """Make each step of a rank longer."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        time.sleep(DELAY)


@telemetry_row("Telemetry names the rank that a callback slows down")
def telemetry_straggler(setting: Setting) -> Results:
    import tfdist

    slow = setting.size - 1
    delays = [Delay()] if setting.rank == slow else []
    results = train(setting, callbacks=[tfdist.callbacks.Telemetry(), *delays])
    results, figures = without_figures(setting, results)
    # Of the two epochs, one at least is not disturbed by what else the machine does.
    assert slow in figures["slowest_rank"]
    own = figures["step_ms"] - figures["communication_ms"] - figures["input_ms"]
    # The mean over the ranks: one computes, the others wait.
    # What an epoch's last callback takes is past its last step.
    assert np.max(own) > 0.6e3 * DELAY / setting.size
    if setting.size > 1:
        others = (setting.size - 1) / setting.size
        assert np.max(figures["communication_ms"]) > 0.5e3 * DELAY * others
    return results


@telemetry_row("Telemetry names the rank whose input is slow")
def telemetry_slow_input(setting: Setting) -> Results:
    import tfdist

    slow = setting.size - 1

    def wait(*batch: Any) -> Any:
        def sleep() -> np.bool_:
            time.sleep(DELAY)
            return np.bool_(True)

        with tf.control_dependencies([tf.numpy_function(sleep, [], tf.bool)]):
            return tf.nest.map_structure(tf.identity, batch)

    data = tf.data.Dataset.from_tensor_slices(regression()).batch(GLOBAL_BATCH)
    if setting.rank == slow:
        data = data.map(wait)
    model = compile_under(setting, perceptron, sgd, "mse")
    telemetry = tfdist.callbacks.Telemetry()
    history = model.fit(data, epochs=2, verbose=0, callbacks=[telemetry])
    results, figures = without_figures(setting, outcome(setting, model, history))
    assert slow in figures["slowest_rank"]
    # Batches are fetched ahead: a busy machine's steps hide a part of the delay.
    assert np.max(figures["input_ms"]) > 0.1e3 * DELAY / setting.size
    return results
