"""The digits: prepared once as TFRecord files, then read as batches."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import tensorflow as tf
import tensorflow_datasets as tfds
from handwritten import CLASSES, TEST_IMAGES_PER_CLASS, Handwritten

import tfdist.data
from tfdist import cluster

# Shared evenly by 1, 2, 3, 4, 6 and 12 processes.
FILES_PER_SPLIT = 12
TEST_IMAGES = CLASSES * TEST_IMAGES_PER_CLASS
TIMEOUT = 300.0  # seconds


def default_folder() -> Path:
    """Returns where the files are kept unless `--data-dir` says otherwise."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "tfdist" / "digits"


def load(
    folder: Path, global_batch_size: int, seed: int
) -> tuple[tfdist.data.Batches, tfdist.data.Batches]:
    """Returns the training and the test batches; prepares the files on first use.

    With several processes call it inside `strategy.scope()`: each one then reads
    its own files.

    Args:
        folder: Where the prepared files are, or will be.
        global_batch_size: Images in one step over all processes.
        seed: Seed of the order of the training images.
    """
    digits = prepare(folder)
    train = tfdist.data.from_tfds(
        digits, "train", global_batch_size, preprocess=scale, seed=seed
    )
    test = tfdist.data.from_tfds(
        digits, "test", global_batch_size, preprocess=scale, shuffle=False
    )
    return train, test


def scale(image: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Maps the 17 grey levels to 0.0 ... 1.0."""
    return tf.cast(image, tf.float32) / 16.0, label


def prepare(folder: Path, timeout: float = TIMEOUT) -> Handwritten:
    """Returns the builder of the prepared dataset.

    The chief writes the files, the other processes wait for them. Two jobs may start
    at once: the second one finds what the first one wrote.

    Args:
        folder: Where the files are kept.
        timeout: Seconds to wait for another process.

    Raises:
        TimeoutError: The files did not appear in time.
    """
    # TFDS writes to a folder of another name and renames it at the end, so files that
    # are there are complete.
    if not is_prepared(folder):
        if cluster.is_chief():
            with locked(folder, timeout):
                write(folder)
        else:
            wait_until(
                lambda: is_prepared(folder),
                timeout,
                f"Rank {cluster.rank()} waited {timeout:g} s for the chief to prepare "
                f"the digits in {folder}.\n"
                "HINT: Pass a --data-dir that all hosts share, or run plain.py once on "
                "every host.",
            )
    return Handwritten(data_dir=folder)


def is_prepared(folder: Path) -> bool:
    """Returns whether the files are there; TFDS's own answer logs a warning if not."""
    version = folder / Handwritten.name / str(Handwritten.VERSION)
    return (version / "dataset_info.json").exists()


def write(folder: Path) -> None:
    """Writes the files, unless another job did while this one waited."""
    if is_prepared(folder):
        return
    tfds.disable_progress_bar()
    config = tfds.download.DownloadConfig(num_shards=FILES_PER_SPLIT)
    digits = Handwritten(data_dir=folder, file_format="tfrecord")
    digits.download_and_prepare(download_config=config)


@contextmanager
def locked(folder: Path, timeout: float) -> Iterator[None]:
    """Keeps other jobs on this machine out of a folder.

    The system releases the lock of a process that dies, so that none stays behind.

    Raises:
        TimeoutError: Another job held the lock all the time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "prepare.lock"
    with path.open("w") as file:

        def acquire() -> bool:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        wait_until(
            acquire,
            timeout,
            f"Another job has been preparing the digits in {folder} for more than "
            f"{timeout:g} s.\nHINT: `fuser {path}` names it; or pass another "
            "--data-dir.",
        )
        yield


def wait_until(done: Callable[[], bool], timeout: float, message: str) -> None:
    """Asks twice a second whether something is done."""
    deadline = time.monotonic() + timeout
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(message)
        time.sleep(0.5)
