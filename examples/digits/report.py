"""What the scripts print at the end: time, accuracy, and whether replicas agree."""

from __future__ import annotations

import hashlib
import math
import time

import keras
import tensorflow as tf

from tfdist import cluster


class StepTimer(keras.callbacks.Callback):
    """Measures the mean time of a training step, once everything is traced."""

    def __init__(self) -> None:
        super().__init__()
        self._seconds: list[float] = []  # of each epoch
        self._steps = 1  # in an epoch

    @property
    def milliseconds(self) -> float:
        """Milliseconds per step, without the first epoch if there are others.

        Not a number where a recovered training had no epoch left.
        """
        epochs = self._seconds[1:] or self._seconds or [math.nan]
        return 1000 * sum(epochs) / len(epochs) / self._steps

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Starts the clock."""
        self._steps = self.params["steps"]
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Stops the clock."""
        self._seconds.append(time.perf_counter() - self._start)


def show(accuracy: float, milliseconds: float) -> None:
    """Prints the result of one process."""
    print(f"time per step: {milliseconds:.2f} ms")
    print(f"test_accuracy={accuracy:.4f}")


def show_all(
    accuracy: float,
    milliseconds: float,
    network: keras.Model,
    strategy: tf.distribute.Strategy,
) -> None:
    """Prints, on the chief, the result of all replicas; every process calls it.

    Raises:
        SystemExit: The replicas' weights differ.
    """
    identical = replicas_agree(network, strategy)
    if cluster.is_chief():
        print(f"time per step: {milliseconds:.2f} ms")
        print(f"weights={fingerprint(network)}")
        print(
            f"demo: test_accuracy={accuracy:.4f} "
            f"ranks={strategy.num_replicas_in_sync} "
            f"identical={'yes' if identical else 'no'}",
            flush=True,
        )
    if not identical:
        raise SystemExit(1)


def fingerprint(network: keras.Model) -> str:
    """Returns a hash of all weights: two runs with the same one ended alike."""
    digest = hashlib.sha256()
    for weight in network.get_weights():
        digest.update(weight.tobytes())
    return digest.hexdigest()[:16]


def replicas_agree(network: keras.Model, strategy: tf.distribute.Strategy) -> bool:
    """Returns whether every replica holds the same weights, bit for bit."""
    run = tf.function(
        lambda: strategy.run(lambda: _fingerprints(network)), autograph=False
    )
    of_all = strategy.gather(run(), axis=0).numpy()
    return len(of_all) == strategy.num_replicas_in_sync and (of_all == of_all[0]).all()


def _fingerprints(network: keras.Model) -> tf.Tensor:
    """Returns the 64-bit hashes of this replica's weights, of shape [1, weights]."""
    rows = [tf.reshape(weight.value, [1, -1]) for weight in network.weights]
    # As int64: not every collective carries bytes.
    return tf.stack([tf.bitcast(tf.fingerprint(row), tf.int64) for row in rows], axis=1)
