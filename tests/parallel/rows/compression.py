"""Compressed gradients: exact where nothing is lost, and agreed by all ranks."""

import json
import warnings
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import keras
import numpy as np

from tests.parallel.registry import Needs, Results, row
from tests.parallel.setting import GLOBAL_BATCH, Setting
from tests.parallel.training import (
    batches,
    compile_under,
    outcome,
    perceptron,
    regression,
    sgd,
    tokens,
    train,
)
from tfdist.compression import buffers

compression_row = partial(row, needs=Needs.TFDIST)
# Everything is sent, sorted and put together again: the sum stays what it was.
WHOLE: dict[str, Any] = {"compressor": "topk", "ratio": 1.0}


def compress(compressor: str, **options: Any) -> Any:
    """Return a callback that compresses as early as it can, small tensors too."""
    import tfdist

    options = {"start_step": 0, "min_size": 0, "log": False} | options
    return tfdist.callbacks.GradientCompression(compressor, **options)


def train_compressed(
    setting: Setting, options: dict[str, Any] | None = None, **training: Any
) -> Results:
    training.setdefault("callbacks", [compress(**(options or WHOLE))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # more bytes than without, as is wanted here
        return train(setting, **training)


def exact_or_rounded(setting: Setting, options: dict[str, Any]) -> Results:
    return train_compressed(setting, options)


# Tolerances: rounding; where less than float32 travels, that of 11 or 8 bits.
EXACT: dict[str, tuple[dict[str, Any], float]] = {
    "none": ({}, 1e-5),
    "powersgd": ({"rank": 6, "min_compression_rate": 0.1}, 1e-4),
    "randomk": ({"ratio": 1.0}, 1e-5),
    "topk": ({"ratio": 1.0}, 1e-5),
    "fp16": ({}, 2e-3),
    "bf16": ({}, 2e-2),
    "int8": ({}, 2e-2),
}
for _name, (_options, _tolerance) in EXACT.items():
    compression_row(
        f"{_name} {_options or ''}".strip(),
        name=f"compression_{_name}",
        tolerance=_tolerance,
    )(partial(exact_or_rounded, options={"compressor": _name, **_options}))


@compression_row("fp16 in many buffers", tolerance=EXACT["fp16"][1])
def compression_in_buffers(setting: Setting) -> Results:
    with mock.patch.multiple(buffers, BUFFER_BYTES=4, FIRST_BYTES=4, GROUP_BYTES=4):
        return train_compressed(setting, {"compressor": "fp16"})


@compression_row("int8 in many buffers", tolerance=EXACT["int8"][1])
def compression_levels_in_buffers(setting: Setting) -> Results:
    with mock.patch.multiple(buffers, BUFFER_BYTES=4, FIRST_BYTES=4, GROUP_BYTES=4):
        return train_compressed(setting, {"compressor": "int8"})


@compression_row("global_clipnorm sees the decompressed sum")
def compression_clipped(setting: Setting) -> Results:
    return train_compressed(setting, optimizer=lambda: sgd(global_clipnorm=0.05))


@compression_row("accumulation 2, partial last batch")
def compression_accumulated(setting: Setting) -> Results:
    return train_compressed(
        setting,
        optimizer=lambda: sgd(gradient_accumulation_steps=2),
        data=regression(57),
        epochs=3,
    )


@compression_row("steps_per_execution 3, EMA")
def compression_execution(setting: Setting) -> Results:
    return train_compressed(
        setting,
        optimizer=lambda: sgd(use_ema=True, ema_overwrite_frequency=2),
        compiled={"steps_per_execution": 3},
    )


@compression_row("run_eagerly")
def compression_eager(setting: Setting) -> Results:
    return train_compressed(setting, compiled={"run_eagerly": True})


@compression_row("sparse gradients pass as they are")
def compression_sparse(setting: Setting) -> Results:
    layers = keras.layers
    return train_compressed(
        setting,
        build=lambda: keras.Sequential(
            [layers.Embedding(20, 4), layers.Flatten(), layers.Dense(1)]
        ),
        data=tokens(),
    )


@compression_row("switched on after 3 steps")
def compression_later(setting: Setting) -> Results:
    return train_compressed(setting, {**WHOLE, "start_step": 3})


@compression_row("loss scaling, overflow on one rank")
def compression_overflow(setting: Setting) -> Results:
    inputs, targets = regression()
    inputs[[18, 47]] = 1e36
    scaled = keras.optimizers.LossScaleOptimizer
    return train_compressed(
        setting,
        build=lambda: keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)]),
        optimizer=lambda: scaled(sgd(), initial_scale=2.0**15),
        loss="mae",
        data=(inputs, targets),
    )


@compression_row("16-bit policy, 16-bit wire", tolerance=2e-2)
def compression_half(setting: Setting) -> Results:
    keras.config.set_dtype_policy("mixed_bfloat16")
    return train_compressed(
        setting,
        {
            "compressor": "powersgd",
            "rank": 6,
            "min_compression_rate": 0.1,
            "wire": "float16",
        },
    )


LOSSY: dict[str, dict[str, Any]] = {
    "powersgd": {"rank": 1, "min_compression_rate": 0.5},
    "powersgd alternate": {"rank": 1, "min_compression_rate": 0.5, "alternate": True},
    "randomk": {"ratio": 0.2},
    "topk": {"ratio": 0.1},
    "int8": {"block": 8},
    "sign": {},
}


def linear_loss(targets: Any, outputs: Any) -> Any:
    """A loss whose gradient does not depend on the weights."""
    return keras.ops.mean(targets * outputs, axis=-1)


def sent_and_left(setting: Setting, name: str) -> Results:
    """Check that no part of any gradient is lost: it was sent, or is in a residual.

    At rate 1 without momentum, what was sent is what the weights have moved.
    """
    inputs, _ = regression(64)
    targets = np.random.default_rng(3).normal(size=(64, 6)).astype("float32")
    callback = compress(name.split()[0], **LOSSY[name])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = compile_under(
            setting,
            lambda: keras.Sequential([keras.Input((8,)), keras.layers.Dense(6)]),
            lambda: keras.optimizers.SGD(1.0),
            linear_loss,
        )
        before = model.get_weights()[0]
        data = batches(inputs, targets)
        steps: list[Any] = []
        record = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: steps.append(model.get_weights()[0])
        )
        model.fit(data, epochs=2, verbose=0, callbacks=[callback, record])
    sent = before - model.get_weights()[0]
    left = total_residual(setting, callback)
    wanted = 2 * inputs.T @ targets / (GLOBAL_BATCH * 6)
    np.testing.assert_allclose(sent + left, wanted, atol=1e-4)
    if setting.replicas > 1:
        assert np.abs(left).max() > 1e-5, "nothing is left: nothing was compressed"
    return outcome(setting, model) | {"weights/of every step": np.stack(steps)}


for _name in LOSSY:
    compression_row(
        f"{_name}: sent and left make the whole",
        name=f"compression_sum_{_name.replace(' ', '_')}",
        compared=False,
    )(partial(sent_and_left, name=_name))


def all_states(setting: Setting, callback: Any) -> list[dict[str, Any]]:
    """Return every process's state, exchanged through files as a checkpoint does."""
    own = callback.get_state()
    path = setting.directory / f"state.{setting.rank}"
    np.savez(f"{path}.npz", **own["arrays"])
    rest = {name: value for name, value in own.items() if name != "arrays"}
    Path(f"{path}.json").write_text(json.dumps(rest))
    setting.barrier()
    states = []
    for rank in range(setting.size):
        with np.load(setting.directory / f"state.{rank}.npz") as file:
            arrays = {name: file[name] for name in file.files}
        rest = json.loads((setting.directory / f"state.{rank}.json").read_text())
        states.append({**rest, "arrays": arrays})
    return states


def total_residual(setting: Setting, callback: Any) -> Any:
    """Return the sum over all replicas of the only kernel's residual."""
    states = all_states(setting, callback)
    return sum(
        part.sum(0)
        for state in states
        for name, part in state["arrays"].items()
        if name.startswith("residual/") and "kernel" in name
    )


@compression_row("resumed from saved residuals: bit for bit", compared=False)
def compression_resumed(setting: Setting) -> Results:
    """Train 4 epochs; and 2, then 2 more with a new callback that was restored."""
    if setting.replicas == 1:
        return {}
    inputs, targets = regression()
    data = batches(inputs, targets)

    def model() -> keras.Model:
        keras.utils.set_random_seed(5)
        return compile_under(setting, perceptron, sgd, "mse")

    options = {"compressor": "topk", "ratio": 0.1}
    whole, first = model(), model()
    whole.fit(data, epochs=4, verbose=0, callbacks=[compress(**options)])
    saved = compress(**options)
    first.fit(data, epochs=2, verbose=0, callbacks=[saved])
    states = all_states(setting, saved)
    restored, forgetful = compress(**options), compress(**options)
    restored.set_state(states)
    again = model()
    copy_variables(setting, first, again)
    again.fit(data, epochs=2, verbose=0, callbacks=[restored])
    pairs = zip(variables_of(whole), variables_of(again), strict=True)
    for one, other in pairs:
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    # The control: without its residuals, it comes to another result.
    other = model()
    copy_variables(setting, first, other)
    other.fit(data, epochs=2, verbose=0, callbacks=[forgetful])
    assert np.abs(other.get_weights()[0] - whole.get_weights()[0]).max() > 1e-5
    return outcome(setting, again)


def copy_variables(setting: Setting, source: keras.Model, target: keras.Model) -> None:
    with setting.scope():
        target.optimizer.build(target.trainable_variables)
    pairs = zip(variables_of(source), variables_of(target), strict=True)
    for one, other in pairs:
        other.assign(one.numpy())


def variables_of(model: keras.Model) -> list[keras.Variable]:
    return [*model.variables, *model.optimizer.variables]


@compression_row("NaN on one rank: all skip, nothing is poisoned", compared=False)
def compression_nan(setting: Setting) -> Results:
    inputs, targets = regression()
    inputs[31] = np.nan  # in the second batch, a row of the last rank
    if setting.replicas == 1:
        return {}
    model = compile_under(setting, perceptron, sgd, "mse")
    kept: list[Any] = []
    record = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: kept.append(model.get_weights()[0])
    )
    callback = compress("topk", ratio=0.1)
    data = batches(inputs, targets)
    model.fit(batches(*regression(16)), verbose=0, callbacks=[callback])
    model.fit(data, epochs=1, verbose=0, callbacks=[callback, record])
    np.testing.assert_array_equal(kept[1], kept[0])
    assert np.isfinite(kept[-1]).all()
    assert np.abs(kept[-1] - kept[1]).max() > 1e-4
    assert all(
        np.isfinite(part).all() for part in callback.get_state()["arrays"].values()
    )
    return outcome(setting, model)


def plain_sgd() -> keras.optimizers.Optimizer:
    return keras.optimizers.SGD(0.1)


@compression_row("LocalSGD(1), plain SGD")
def local_sgd_every_step(setting: Setting) -> Results:
    import tfdist

    callbacks = [tfdist.callbacks.LocalSGD(1)]
    data = regression(57)
    return train(setting, optimizer=plain_sgd, callbacks=callbacks, data=data)


@compression_row("LocalSGD(1), accumulation 2, compressed")
def local_sgd_compressed(setting: Setting) -> Results:
    import tfdist

    return train_compressed(
        setting,
        optimizer=lambda: keras.optimizers.SGD(0.1, gradient_accumulation_steps=2),
        callbacks=[tfdist.callbacks.LocalSGD(1), compress(**WHOLE)],
    )


@compression_row("LocalSGD(3), outer Nesterov: as computed by hand", compared=False)
def local_sgd_outer(setting: Setting) -> Results:
    """Compare two epochs of 4 batches with every replica's steps in NumPy."""
    import tfdist

    inputs, targets = regression()
    model = compile_under(
        setting,
        lambda: keras.Sequential(
            [keras.Input((8,)), keras.layers.Dense(1, use_bias=False)]
        ),
        plain_sgd,
        "mse",
    )
    weights = model.get_weights()[0].astype("float64")
    if setting.replicas == 1:
        return {}
    outer = keras.optimizers.SGD(0.7, momentum=0.9, nesterov=True)
    callback = tfdist.callbacks.LocalSGD(3, outer)
    asking = keras.callbacks.LambdaCallback(  # is not an epoch's end
        on_train_batch_end=lambda batch, logs: model.get_metrics_result()
    )
    data = batches(inputs, targets)
    model.fit(data, epochs=2, verbose=0, callbacks=[callback, asking])
    wanted = by_hand(weights, inputs, targets, setting.replicas)
    np.testing.assert_allclose(model.get_weights()[0], wanted, atol=1e-5)
    return outcome(setting, model)


def by_hand(weights: Any, inputs: Any, targets: Any, replicas: int) -> Any:
    bounds = [16 * replica // replicas for replica in range(1, replicas)]
    outer, velocity = weights.copy(), np.zeros_like(weights)
    own = [weights.copy() for _ in range(replicas)]
    for step in range(8):
        rows = slice(16 * (step % 4), 16 * (step % 4 + 1))
        parts = zip(
            np.split(inputs[rows], bounds),
            np.split(targets[rows], bounds),
            strict=True,
        )
        for replica, (x, y) in enumerate(parts):
            error = x @ own[replica] - y
            own[replica] = own[replica] - 0.1 * replicas * 2 * x.T @ error / 16
        if step % 4 in (2, 3):  # every 3 steps, and at the end of the epoch
            gradient = outer - sum(own) / replicas
            velocity = 0.9 * velocity - 0.7 * gradient
            outer = outer + 0.9 * velocity - 0.7 * gradient
            own = [outer.copy() for _ in range(replicas)]
    return outer
