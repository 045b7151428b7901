"""The 1,797 images of handwritten digits: folds, orders, first weights."""

import numpy as np

from tests import allow_scikit_learn
from tests.convergence.experiment import Settings

CLASSES = 10


def images_and_labels() -> tuple[np.ndarray, np.ndarray]:
    """Return the images as rows of 64 numbers, and the digits.

    Black is 0, white is 1, less the mean image: where all inputs are positive, their
    mean is by far the steepest direction, and only rates so small that 30 epochs do
    not suffice are stable with what arrives twenty steps late.
    """
    allow_scikit_learn()
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = digits.data / 16.0
    return (images - images.mean(0)).astype("float32"), digits.target.astype("int32")


def fold_of(labels: np.ndarray, seed: int, folds: int) -> np.ndarray:
    """Return the fold of each image; each fold has equally many of every digit."""
    draws = np.random.default_rng([seed, 1])
    shuffled = draws.permutation(len(labels))
    by_digit = shuffled[np.argsort(labels[shuffled], kind="stable")]
    result = np.empty(len(labels), "int64")
    result[by_digit] = np.arange(len(labels)) % folds
    return result


def steps_of_epoch(labels: np.ndarray, settings: Settings) -> int:
    """Return the whole batches in every epoch of every training."""
    largest_fold = -(-len(labels) // settings.folds)
    return (len(labels) - largest_fold) // settings.batch


def batches(labels: np.ndarray, seed: int, fold: int, settings: Settings) -> np.ndarray:
    """Return the images of each step, [steps, batch]: a new order every epoch."""
    train = np.flatnonzero(fold_of(labels, seed, settings.folds) != fold)
    draws = np.random.default_rng([seed, 2, fold])
    steps = steps_of_epoch(labels, settings)
    epochs = [
        draws.permutation(train)[: steps * settings.batch]
        for _ in range(settings.epochs)
    ]
    return np.concatenate(epochs).reshape(-1, settings.batch)


def first_weights(shapes: list[tuple[int, ...]], seed: int) -> list[np.ndarray]:
    """Return what a training begins with.

    Source: Glorot, Bengio, Understanding the difficulty of training deep feedforward
    neural networks, AISTATS 2010.
    """
    draws = np.random.default_rng([seed, 3])
    return [
        draws.uniform(-1, 1, shape).astype("float32")
        * np.sqrt(6 / sum(shape), dtype="float32")
        if len(shape) > 1
        else np.zeros(shape, "float32")
        for shape in shapes
    ]
