"""Variables travel from the first replica in groups of a bounded size."""

import keras
import numpy as np
import tensorflow as tf

from tfdist.strategies import synchronize
from tfdist.strategies.replica import Replica, to_bits


def test_a_model_travels_in_groups(monkeypatch):
    monkeypatch.setattr(synchronize, "_GROUP_BYTES", 40)
    sent = []

    def add_bits_of_first(bits):
        sent.append([each.shape.num_elements() for each in bits])
        return [each + to_bits(tf.fill(each.shape, 5.0)) for each in bits]

    variables = [keras.Variable(np.zeros(size, "float32")) for size in (4, 6, 20, 1)]
    synchronize.send_from_first(
        tf.distribute.get_strategy(),
        variables,
        lambda: Replica(number=1, count=2, sum=add_bits_of_first),
    )
    assert sent == [[4, 6], [20], [1]]
    for variable in variables:
        np.testing.assert_array_equal(variable.numpy(), 5.0)
