"""More runs that are broken off and go on: each kind of state by itself."""

from typing import Any

import keras
import numpy as np

from tests.parallel.registry import Results
from tests.parallel.rows.recovery import compressed, recovery_row
from tests.parallel.setting import Setting
from tests.parallel.training import binary, regression, sgd
from tests.resumed_runs import Run, forgetting

layers = keras.layers
# Step 5 is the first batch of the second epoch, in the middle of an update.
BETWEEN: dict[str, int] = {"after": 6, "step": 5, "every": 5}


@recovery_row("accumulation 2, saved in between, clipping", proves=(20,))
def recovery_accumulated(setting: Setting) -> Results:
    run = Run(
        setting,
        optimizer=lambda: sgd(gradient_accumulation_steps=2, global_clipnorm=0.05),
    )
    results = run.check(**BETWEEN)
    run.check_control(forgetting("optimizer/gradient_accumulator/*"))
    return results


@recovery_row("loss scaling, overflows before and after", proves=(21,))
def recovery_loss_scale(setting: Setting) -> Results:
    inputs, targets = regression(57)
    inputs[[18, 47]] = 1e36
    scaled = keras.optimizers.LossScaleOptimizer
    run = Run(
        setting,
        build=lambda: keras.Sequential([keras.Input((8,)), layers.Dense(1)]),
        optimizer=lambda: scaled(sgd(), initial_scale=2.0**15, dynamic_growth_steps=2),
        loss="mae",
        data=(inputs, targets),
    )
    results = run.check()
    run.check_control(forgetting("optimizer/dynamic_scale", "optimizer/step_counter"))
    return results


@recovery_row("steps_per_execution 2, arrays shuffled, sample weights", proves=(23, 26))
def recovery_execution(setting: Setting) -> Results:
    run = Run(
        setting,
        compiled={"steps_per_execution": 2, "weighted_metrics": ["mae"]},
        data=regression(64),
        shuffle=True,
        sample_weight=np.linspace(0.0, 2.0, 64, dtype="float32"),
    )
    return run.check(after=4)


@recovery_row("class weights, part held out for validation", proves=(26,))
def recovery_class_weights(setting: Setting) -> Results:
    run = Run(
        setting,
        data=binary(96),
        loss="binary_crossentropy",
        build=lambda: keras.Sequential(
            [keras.Input((8,)), layers.Dense(1, activation="sigmoid")]
        ),
        compiled={"metrics": ["accuracy"]},
        class_weight={0: 0.5, 1: 2.0},
        validation_split=0.4,
    )
    return run.check()


@recovery_row("PowerSGD begins after the checkpoint, or before it", proves=(25,))
def recovery_powersgd(setting: Setting) -> Results:
    options: dict[str, Any] = {"rank": 1, "min_compression_rate": 0.5, "log": False}
    for start in (2, 6):
        run = Run(
            setting,
            lambda start=start: [
                compressed(compressor="powersgd", start_step=start, **options)
            ],
        )
        results = run.check()
    return results


@recovery_row("LocalSGD, each replica with weights of its own", proves=(19, 20))
def recovery_local_steps(setting: Setting) -> Results:
    import tfdist

    def callbacks() -> list[keras.callbacks.Callback]:
        nesterov = keras.optimizers.SGD(0.7, momentum=0.9, nesterov=True)
        return [tfdist.callbacks.LocalSGD(4, nesterov)]

    results = Run(setting, callbacks, optimizer=lambda: sgd(momentum=0.9)).check()
    # What a replica's own optimizer remembers is the replica's own.
    differ = ("optimizer/", "replicas/")
    return {name: each for name, each in results.items() if not name.startswith(differ)}


@recovery_row(
    "learning rate warmed up, EarlyStopping, ReduceLROnPlateau, CSVLogger", proves=(24,)
)
def recovery_callbacks(setting: Setting) -> Results:
    import tfdist

    def callbacks() -> list[keras.callbacks.Callback]:
        return [
            tfdist.callbacks.LearningRateScaling(
                reference_batch_size=8, warmup_epochs=1.5, after="cosine"
            ),
            keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.9),
            keras.callbacks.ReduceLROnPlateau("loss", 0.5, patience=1, min_delta=10.0),
            keras.callbacks.EarlyStopping(
                "val_loss", min_delta=10.0, patience=3, restore_best_weights=True
            ),
            keras.callbacks.CSVLogger(str(setting.directory / "log.csv")),
        ]

    run = Run(setting, callbacks, epochs=6, validation_data=regression(20))
    run.whole()
    setting.barrier()
    lines = (setting.directory / "log.csv").read_text()
    setting.barrier()  # the chief's next run writes the file anew
    # Epoch 3 is complete, and logged, but not saved when the run is broken off.
    results = run.check(after=13, step=10, every=5)
    setting.barrier()
    assert (setting.directory / "log.csv").read_text() == lines
    return results


@recovery_row(
    "MixedPrecision in stages, resumed before a change and after it", proves=(21, 24)
)
def recovery_precision(setting: Setting) -> Results:
    import tfdist

    def callbacks() -> list[keras.callbacks.Callback]:
        stages = [("float32", 0), ("mixed_float16", 0.4), ("float32", 0.7)]
        return [
            tfdist.callbacks.MixedPrecision(
                stages, initial_scale=1024.0, growth_steps=3
            )
        ]

    run = Run(setting, callbacks)
    results = run.check(after=9, step=6, every=6)
    run.check(after=5, step=4, every=4)
    return results
