"""The 1,797 handwritten digits of scikit-learn as a TFDS dataset.

TFDS looks for a dataset's metadata beside its module, so the builder has a package of
its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from sklearn.datasets import load_digits

CLASSES = 10
TEST_IMAGES_PER_CLASS = 36  # 360 of 1,797 images: 20 %
SPLIT_SEED = 2025


def test_indices(labels: np.ndarray) -> np.ndarray:
    """Returns which images are the test set, the same number of each class.

    Args:
        labels: The class of every image, in scikit-learn's order.

    Returns:
        Ascending indices, a function of the labels and the fixed seed alone.
    """
    # RandomState's streams are frozen; default_rng's may change between releases.
    generator = np.random.RandomState(SPLIT_SEED)
    chosen = [
        generator.permutation(np.flatnonzero(labels == digit))[:TEST_IMAGES_PER_CLASS]
        for digit in range(CLASSES)
    ]
    return np.sort(np.concatenate(chosen))


class Handwritten(tfds.core.GeneratorBasedBuilder):
    """8x8 images of digits with 17 grey levels; nothing is downloaded."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Optical recognition of handwritten digits, UCI, test part.",
            homepage="https://doi.org/10.24432/C50P49",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Tensor(shape=(8, 8, 1), dtype=np.uint8),
                    "label": tfds.features.ClassLabel(num_classes=CLASSES),
                    "index": np.int64,  # in scikit-learn's order
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager
        images, labels = load_digits(return_X_y=True)
        test = test_indices(labels)
        train = np.setdiff1d(np.arange(len(labels)), test)
        images = images.astype(np.uint8).reshape(-1, 8, 8, 1)
        return {
            "train": self._examples(images, labels, train),
            "test": self._examples(images, labels, test),
        }

    def _generate_examples(self, *args: Any) -> Iterator[tuple[int, dict[str, Any]]]:
        return self._examples(*args)

    def _examples(
        self, images: np.ndarray, labels: np.ndarray, indices: np.ndarray
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for index in map(int, indices):
            example = {"image": images[index], "label": labels[index], "index": index}
            yield index, example
