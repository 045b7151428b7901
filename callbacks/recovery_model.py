"""What CheckpointRecovery asks of a model, before it trusts Keras to know all of it."""

from __future__ import annotations

from collections.abc import Iterator

import keras

from tfdist.checkpoint.keys import unlisted_state
from tfdist.errors import explain
from tfdist.strategies import fits


def running_fit(model: keras.Model) -> fits.Call:
    """Returns the call of `fit` that a model is in; raises ValueError if in none."""
    fit = fits.running(model)
    if fit is None:
        raise ValueError(
            explain(
                "CheckpointRecovery does not know the `fit` that it is in",
                received="a callback that was made when `fit` was being called, or a "
                "loop that calls callbacks itself",
                expected="model.fit of Keras",
                hint="Write recovery = CheckpointRecovery(...) in a line of its own, "
                "before the one with model.fit; or call tfdist.strategy(...) earlier.",
            )
        )
    return fit


def refuse_other_optimizers(model: keras.Model) -> None:
    """Raises ValueError if a model keeps optimizers that Keras does not know of."""
    others = [
        name
        for name, value in vars(model).items()
        if isinstance(value, keras.optimizers.Optimizer)
        and value is not model.optimizer
    ]
    if others:
        raise ValueError(
            explain(
                "CheckpointRecovery saves one optimizer, model.optimizer",
                received=f"more of them: {', '.join(f'model.{n}' for n in others)}",
                expected="a model with one optimizer",
                hint="Use a model for each optimizer; or tf.train.CheckpointManager.",
            )
        )


def refuse_another_model(model_name: str, path: str) -> None:
    """Raises ValueError: what is saved is of a model before this one in a script.

    It would be taken for this one's: folds and trials have the same layers.
    """
    raise ValueError(
        explain(
            "One directory keeps the training of one model",
            received=f"model {model_name!r}, and in {path} the checkpoints of another "
            "one, whose `fit` has returned in this process",
            expected="a directory for each model: for each fold, each trial",
            hint=f'CheckpointRecovery(f"{path}/{{fold}}"); or, if this is the same '
            "training with a new model, start the script, or the kernel, again.",
        )
    )


def unknown_to_keras(model: keras.Model) -> Iterator[str]:
    """Yields a sentence with a hint if a model has state that Keras does not list.

    What TensorFlow alone knows of is neither saved nor put back.
    """
    found = unlisted_state(model)
    if found:
        yield (
            f"Keras does not know of {', '.join(found)}, which begin anew. HINT: Use "
            "self.add_weight(..., trainable=False) for a tf.Variable, and "
            "keras.random.SeedGenerator for a tf.random.Generator."
        )
