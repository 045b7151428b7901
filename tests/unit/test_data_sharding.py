"""The index mathematics: every example once, on every replica the same answer."""

import numpy as np
import pytest
import tensorflow as tf

from tfdist.data import sharding
from tfdist.strategies.sharding import replica_batches


@pytest.mark.parametrize("replicas", [2, 3, 4])
def test_split_is_the_one_of_the_strategies(replicas):
    for rows in range(1, 10):
        batch = tf.data.Dataset.from_tensors(tf.range(rows))
        parts = [replica_batches(batch, replicas, r) for r in range(replicas)]
        expected = [len(rows) for part in parts for rows in part]
        assert sharding.split_sizes(rows, replicas) == expected


def test_comparison_sees_the_rule_of_tf_distribute():
    # ceil(4 / 3) rows for as long as there are any: the last replica is left empty.
    assert sharding.split_sizes(4, 3) != [2, 2, 0]


@pytest.mark.parametrize("examples", [1, 7, 24, 25])
@pytest.mark.parametrize("replicas", [1, 2, 3, 5])
def test_every_example_once_an_epoch(examples, replicas):
    order = sharding.permutation(examples, seed=3, epoch=2)
    steps = sharding.count_steps(examples, 6, drop_remainder=False)
    seen = [
        sharding.replica_indices(examples, 6, replicas, replica, step, order)
        for step in range(steps)
        for replica in range(replicas)
    ]
    # In turn the replicas' parts are the one-process order itself.
    np.testing.assert_array_equal(np.concatenate(seen), order)


def test_order_is_a_function_of_seed_and_epoch():
    draws = {
        (seed, epoch): tuple(sharding.permutation(50, seed, epoch))
        for seed in (0, 1, 2**64 - 1)
        for epoch in (0, 1, 7)
    }
    assert len(set(draws.values())) == len(draws)
    np.random.seed(123)  # the global generator has no say
    assert tuple(sharding.permutation(50, 1, 7)) == draws[1, 7]


def test_order_does_not_change_between_releases():
    assert sharding.permutation(8, seed=1, epoch=0).tolist() == [3, 5, 2, 7, 0, 6, 1, 4]


def test_without_an_order_the_data_keeps_its_own():
    indices = sharding.replica_indices(10, 4, 2, replica=1, step=1)
    assert indices.tolist() == [6, 7]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: sharding.split_sizes(-1, 2), "rows must be at least 0"),
        (lambda: sharding.split_sizes(1, 0), "replicas must be at least 1"),
        (lambda: sharding.count_steps(1, 0, False), "global_batch_size must be"),
        (lambda: sharding.permutation(4, -1, 0), "seed must be"),
        (lambda: sharding.replica_indices(4, 2, 2, 2, 0), "replica must be"),
        (lambda: sharding.replica_indices(4, 2, 2, 0, 2), "step must be"),
        (lambda: sharding.replica_indices(4, 2, 2, 0, 0, np.arange(3)), "3 indices"),
    ],
)
def test_errors_say_what_was_received_and_the_fix(call, words):
    with pytest.raises(ValueError, match=f"(?s){words}.*HINT: "):
        call()
