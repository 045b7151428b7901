"""What is compared in each experiment."""

import dataclasses
from typing import Any

from tests.convergence.experiment import Experiment, Method, Settings

WITHOUT = "-without"  # ends the names of methods without error feedback


def _compressed(title: str, compressor: str, **parameters: Any) -> Method:
    """Return compression from the first step on, which the callback would put off."""
    always = {"compressor": compressor, "start_step": 0, "log": False}
    return Method(title, "GradientCompression", always | parameters)


def _without_feedback(method: Method, worse: bool | None) -> Method:
    arguments = method.arguments | {"error_feedback": False}
    return dataclasses.replace(method, arguments=arguments, worse=worse)


_LOSSY = {
    "powersgd": _compressed("PowerSGD, rank 2", "powersgd", rank=2),
    "topk": _compressed("top-k, 1 %", "topk", ratio=0.01),
    "randomk": _compressed("random-k, 5 %", "randomk", ratio=0.05),
    "int8": _compressed("int8", "int8"),
    "sign": _compressed("sign", "sign"),
}
COMPRESSION = Experiment(
    "compression",
    {
        "uncompressed": Method("uncompressed"),
        "fp16": _compressed("fp16", "fp16"),
        "bf16": _compressed("bf16", "bf16"),
        **_LOSSY,
        # Rounding to 255 levels errs too little to be seen here; sign refuses to do
        # without.
        **{
            name + WITHOUT: _without_feedback(method, None if name == "int8" else True)
            for name, method in _LOSSY.items()
            if name != "sign"
        },
    },
)
PRECISION = Experiment(
    "precision",
    {
        "float32": Method("float32"),
        "float16": Method(
            "mixed_float16", "MixedPrecision", {"policy": "mixed_float16"}
        ),
        # Begins with scales that overflow, and tries a larger one again and again.
        "float16-skips": Method(
            "mixed_float16, `initial_scale=2.0**40, growth_steps=50`",
            "MixedPrecision",
            {
                "policy": "mixed_float16",
                "initial_scale": 2.0**40,
                "growth_steps": 50,
            },
        ),
        "bfloat16": Method(
            "mixed_bfloat16", "MixedPrecision", {"policy": "mixed_bfloat16"}
        ),
        "bfloat16-weights": Method(
            "all in bfloat16, weights too (Keras's own policy)",
            changes={"policy": "bfloat16"},
            worse=None,
        ),
        # What MixedPrecision refuses: Keras divides twice what it has scaled once.
        "unscaled-twice": Method(
            "float32 in two LossScaleOptimizers (Keras alone)",
            changes={"loss_scales": 2},
            worse=True,
        ),
    },
)
SMALL_BATCH = Settings(batch=16, epochs=20)
RATES = (SMALL_BATCH.rate, 0.0125, 0.025, 0.1, 0.2)
BASE_RATE = Experiment(
    "base_rate",
    {
        f"rate-{rate:g}": Method(f"{rate:g}", changes={"rate": rate}, worse=None)
        for rate in RATES
    },
    SMALL_BATCH,
    page="large_batch",
    first_seed=100,  # not those that the rate is used with
)
_LARGE = {"batch": 8 * SMALL_BATCH.batch}


def _scaled(title: str, **arguments: Any) -> Method:
    """Return a large batch with the rate scaled, and warmed up for 2 of 20 epochs."""
    batches = {"reference_batch_size": SMALL_BATCH.batch, "batch_size": 128}
    return Method(
        title,
        "LearningRateScaling",
        batches | {"warmup_steps": 22} | arguments,
        changes=_LARGE,
    )


LARGE_BATCH = Experiment(
    "large_batch",
    {
        "small": Method("16 images"),
        "scaled": _scaled("128 images, rate x 8, warm-up of 2 epochs"),
        "cold": dataclasses.replace(
            _scaled("128 images, rate x 8 at once", warmup_steps=0), worse=None
        ),
        "unscaled": Method("128 images, rate as it was", changes=_LARGE, worse=True),
    },
    SMALL_BATCH,
)
EXPERIMENTS = {
    each.name: each for each in (COMPRESSION, PRECISION, BASE_RATE, LARGE_BATCH)
}
