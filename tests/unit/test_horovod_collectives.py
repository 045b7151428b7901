"""Horovod's operations run in every execution of a program, whatever their input."""

import numpy as np
import pytest
import tensorflow as tf

from tfdist.strategies import horovod_collectives
from tfdist.strategies.horovod_collectives import HorovodCollectives


class FakeHorovod:
    """Two ranks, the other of which sends zeros; not stateful, like Horovod's own."""

    Sum = "sum"

    def __init__(self):
        self.calls = 0

    def size(self):
        return 2

    def allreduce(self, value, **options):
        def count(array):
            self.calls += 1
            return array

        return tf.numpy_function(count, [value], value.dtype, stateful=False)


def calls_of_three_executions(*shape):
    fake = FakeHorovod()
    collectives = HorovodCollectives(fake)
    weights = tf.Variable(tf.ones(shape))

    @tf.function
    def program():
        # What a rank contributes that is not the first: known while it is traced.
        return collectives.all_reduce(tf.where(False, weights, tf.zeros(shape)))

    for _ in range(3):
        np.testing.assert_array_equal(program(), np.zeros(shape))
    return fake.calls


@pytest.mark.parametrize("shape", [(), (4,), (0,), (2, 3)])
def test_a_collective_of_zeros_takes_part_each_time(shape):
    assert calls_of_three_executions(*shape) == 3


def test_control_tensorflow_would_compute_it_once(monkeypatch):
    monkeypatch.setattr(horovod_collectives, "_known_late", lambda value, turn: value)
    assert calls_of_three_executions(4) < 3
