"""The arithmetic of benchmarks/network, and what the ranks are told by files."""

import threading

import numpy as np
import pytest

from benchmarks.network import formulas, models
from benchmarks.network.orders import Commander, Orders

MLP = [[1024, 1024], [1024]] * 12


def test_bytes_of_the_mlp():
    assert formulas.dense_bytes(MLP, 2) == 4 * 12 * 1025 * 1024
    assert formulas.dense_bytes(MLP, 2, each=2) == formulas.dense_bytes(MLP, 2) / 2
    assert formulas.dense_bytes(MLP, 1) == 0
    # Rank 4: two factors of 1024 x 4 for each matrix, the vectors as they are.
    expected = 4 * 12 * (2 * 1024 * 4 + 1024)
    assert formulas.torch_powersgd_bytes(MLP, 2, 4) == expected
    # A convolution in PyTorch's layout; too little to save in the second one.
    shapes = [[64, 32, 3, 3], [8, 2, 1, 1]]
    expected = 4 * (4 * (64 + 32 * 9) + 16)
    assert formulas.torch_powersgd_bytes(shapes, 2, 4) == expected


def test_the_wire():
    assert formulas.wire_seconds(50e6, 1e9) == pytest.approx(0.4)


def test_quartiles():
    assert formulas.quartiles([2.0]) == (2.0, 2.0, 2.0)
    assert formulas.quartiles([3.0, 1.0, 2.0, 5.0, 4.0]) == (2.0, 3.0, 4.0)


def test_losses_of_batches_from_running_means():
    losses = np.array([4.0, 2.0, 3.0, 0.5])
    means = np.cumsum(losses) / np.arange(1, 5)
    assert formulas.batch_losses(means) == pytest.approx(losses)
    assert formulas.batch_losses([]) == []


def test_steps_to_a_loss_count_whole_passes():
    # A single easy batch is not yet the loss.
    losses = [3.0, 0.1, 3.0, 0.1, 0.2, 0.1]
    assert formulas.steps_to_loss(losses, 0.5, batches=2) == 5
    assert formulas.steps_to_loss(losses, 0.5, batches=1) == 2
    assert formulas.steps_to_loss(losses, 0.01, batches=2) is None
    assert formulas.steps_to_loss([0.1], 0.5, batches=2) is None


@pytest.mark.parametrize("name", models.NAMES)
def test_every_rank_has_its_rows_of_the_same_batches(name):
    inputs, labels = models.examples(name, 2)
    batch = models.task(name).batch
    assert len(inputs) == len(labels) == models.BATCHES * 2 * batch
    again, _ = models.examples(name, 2)
    np.testing.assert_array_equal(inputs, again)
    parts = [models.own_part(labels, rank, 2) for rank in (0, 1)]
    assert parts[0].shape == (models.BATCHES, batch)
    together = np.concatenate(parts, axis=1).reshape(-1)
    np.testing.assert_array_equal(together, labels)


def test_orders_are_carried_out_in_order_and_answered_by_all(tmp_path):
    def rank(number):
        orders = Orders(tmp_path, number)
        for order in orders:
            orders.answer(twice=2 * order["steps"], rank=number)

    ranks = [threading.Thread(target=rank, args=[number]) for number in (0, 1)]
    commander = Commander(tmp_path, 2)
    for thread in ranks:
        thread.start()
    for steps in (3, 5):
        commander.order(steps=steps)
        while (answers := commander.answers()) is None:
            pass
        assert all(each.pop("busy") >= 0 for each in answers)
        assert answers == [{"twice": 2 * steps, "rank": rank} for rank in (0, 1)]
    commander.end()
    for thread in ranks:
        thread.join(timeout=10)
        assert not thread.is_alive()
