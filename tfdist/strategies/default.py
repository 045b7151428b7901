"""The strategy of one device: TensorFlow's own default, a null object."""

from __future__ import annotations

import tensorflow as tf

from tfdist import cluster
from tfdist.strategies import fits


def default_strategy() -> tf.distribute.Strategy:
    """Returns TensorFlow's default strategy, under which Keras trains as without one.

    A script written for several devices then runs unchanged on one.
    """
    cluster.install(cluster.Member())
    fits.install()  # before a script takes hold of `model.fit`
    return tf.distribute.get_strategy()
