"""One process of a launch: all trainings of all methods, in lock-step.

    python -m tests.convergence.worker --strategy horovod --out FOLDER --plan plan.json

The chief appends a line to `--records` for each training.
"""

import argparse
import faulthandler
import itertools
import json
import time
import zlib
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tfdist
from tests.convergence import digits
from tests.convergence.experiment import Experiment, Method, Settings, Training
from tests.convergence.many import ManyTrainings, dataset
from tests.convergence.methods import EXPERIMENTS
from tests.parallel.worker import make_strategy
from tfdist.compression import Fused, NoCompression
from tfdist.gradients.attach import path_of
from tfdist.gradients.compressed import CompressedSum, slots_of

HANGS = 300.0  # seconds without the end of a training


def build(settings: Settings, steps: int) -> keras.Model:
    """Return the compiled model; one execution is one epoch of `steps` steps."""
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(settings.units, "relu", dtype=settings.policy),
            keras.layers.Dense(settings.units, "relu", dtype=settings.policy),
            keras.layers.Dense(digits.CLASSES),
        ]
    )
    rate = keras.optimizers.schedules.CosineDecay(
        settings.rate, settings.epochs * steps
    )
    optimizer = keras.optimizers.SGD(rate, momentum=settings.momentum)
    for _ in range(settings.loss_scales):
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        steps_per_execution=steps,
    )
    return model


def callbacks_of(method: Method) -> list[keras.callbacks.Callback]:
    """Return what a user would pass to `fit`."""
    if not method.callback:
        return []
    return [getattr(tfdist.callbacks, method.callback)(**method.arguments)]


def bytes_of(model: keras.Model, ranks: int) -> dict[str, float]:
    """Return what reaches each rank in a step, and what would uncompressed."""
    path = path_of(model.optimizer)
    plain = Fused(NoCompression(), slots_of(path.kinds), ranks).bytes_uncompressed()
    if not isinstance(path.method.reduction, CompressedSum):
        return {"bytes": plain, "bytes_uncompressed": plain}
    sent = path.method.reduction.fused.bytes_on_wire()
    return {"bytes": sent, "bytes_uncompressed": plain}


def steps_of(model: keras.Model, settings: Settings) -> dict[str, int]:
    """Return the steps of a training, and how many of them were skipped."""
    _, labels = digits.images_and_labels()
    steps = settings.epochs * digits.steps_of_epoch(labels, settings)
    made = int(keras.ops.convert_to_numpy(model.optimizer.iterations))
    return {"steps": steps, "skipped": steps - made}


def digest(model: keras.Model) -> int:
    """Return a number that differs where a bit of a weight does."""
    return zlib.crc32(b"".join(weight.tobytes() for weight in model.get_weights()))


def accuracy(model: keras.Model, training: Training, settings: Settings) -> dict:
    """Return how many images of the fold that was left out are recognised."""
    images, labels = digits.images_and_labels()
    test = digits.fold_of(labels, training.seed, settings.folds) == training.fold
    answers = np.asarray(model(images[test], training=False)).argmax(1)
    return {
        "correct": int((answers == labels[test]).sum()),
        "images": int(test.sum()),
    }


def train(
    strategy: tf.distribute.Strategy,
    experiment: Experiment,
    trainings: list[Training],
    records: Path,
) -> None:
    """Run all trainings of one method."""
    name = trainings[0].method
    method, settings = experiment.methods[name], experiment.settings_of(name)
    _, labels = digits.images_and_labels()
    began = time.perf_counter()

    def finished(training: Training, model: keras.Model) -> None:
        nonlocal began
        faulthandler.dump_traceback_later(HANGS, exit=True)
        if tfdist.cluster.is_chief():
            found: dict[str, Any] = training._asdict()
            found |= {"settings": settings.fingerprint()}
            found |= accuracy(model, training, settings)
            found |= bytes_of(model, strategy.num_replicas_in_sync)
            found |= steps_of(model, settings)
            found |= {"weights": digest(model)}
            found |= {"seconds": round(time.perf_counter() - began, 3)}
            with records.open("a") as file:
                file.write(json.dumps(found) + "\n")
        began = time.perf_counter()

    keras.utils.clear_session(free_memory=False)
    with strategy.scope():
        model = build(settings, digits.steps_of_epoch(labels, settings))
    batches, steps = dataset(trainings, settings)
    model.fit(
        batches,
        steps_per_epoch=steps,
        shuffle=False,
        verbose=0,
        callbacks=[
            *callbacks_of(method),
            ManyTrainings(trainings, settings, finished),
        ],
    )


def main() -> None:
    """Run the plan; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strategy", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--plan", type=Path, required=True)
    parser.add_argument("--records", type=Path, required=True)
    options = parser.parse_args()
    # Ends this process even if it hangs in C++ and its launcher was killed.
    faulthandler.dump_traceback_later(HANGS, exit=True)
    strategy = make_strategy(options.strategy)
    plan = json.loads(options.plan.read_text())
    experiment = EXPERIMENTS[plan["experiment"]]
    todo = [Training(*each) for each in plan["trainings"]]
    for _, of_method in itertools.groupby(todo, key=lambda each: each.method):
        faulthandler.dump_traceback_later(HANGS, exit=True)
        train(strategy, experiment, list(of_method), options.records)
    faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    main()
