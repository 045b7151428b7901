"""The invariants of a compressed step, on 2, 3 and 5 played ranks."""

import numpy as np
import pytest
import tensorflow as tf

from tests.compressed_runs import (
    ALL,
    EITHER,
    RANKS,
    SLOTS,
    fused_for,
    gradients,
    recorded,
    residuals,
)
from tests.simulated import step
from tfdist.compression import (
    BF16,
    FP16,
    Fused,
    Int8,
    NoCompression,
    PowerSGD,
    RandomK,
    Sign,
    Slot,
    TopK,
)
from tfdist.compression.rounds import perform


@RANKS
@EITHER
@pytest.mark.parametrize("compressor", ALL, ids=str)
def test_ranks_stay_bit_identical(compressor, ranks, has_all_to_all):
    _, record = recorded(compressor, ranks, has_all_to_all)
    for first, *others in record.steps:
        for result in others:
            for own, total in zip(result.totals, first.totals, strict=True):
                np.testing.assert_array_equal(own, total)
            for name, value in result.state.items():
                if not name.startswith("residual/"):
                    np.testing.assert_array_equal(value, first.state[name])


@pytest.mark.parametrize("compressor", ALL, ids=str)
def test_one_rank_changes_nothing(compressor):
    fused = fused_for(compressor, 1)
    (own,) = gradients(1)
    (result,), sent = step(fused, [own], [fused.init()])
    assert not sent and not fused.payload()
    for before, after in zip(own, result.totals, strict=True):
        np.testing.assert_array_equal(before, after)


@RANKS
@pytest.mark.parametrize("compressor", [RandomK(1.0), TopK(1.0), NoCompression()])
def test_a_ratio_of_one_equals_dense(compressor, ranks):
    _, record = recorded(compressor, ranks)
    for update, want in zip(record.updates, record.wanted, strict=True):
        np.testing.assert_allclose(update, want, atol=1e-5)
    for left in residuals(record.states).values():
        assert not left.any()


@RANKS
def test_full_rank_equals_dense(ranks):
    compressor = PowerSGD(24, min_compression_rate=0.01)
    fused, record = recorded(compressor, ranks)
    assert 0 in fused.taken
    np.testing.assert_allclose(record.updates[0], record.wanted[0], atol=2e-5)


@RANKS
@EITHER
@pytest.mark.parametrize("compressor", ALL, ids=str)
def test_bytes_are_those_of_the_formula(compressor, ranks, has_all_to_all):
    fused, record = recorded(compressor, ranks, has_all_to_all)
    assert dict(fused.payload()) == {
        kind: sum(one.bytes for one in record.sent if one.collective == kind)
        for kind in {one.collective for one in record.sent}
    }
    if isinstance(compressor, NoCompression):
        flag = 4 * 2 * (ranks - 1) / ranks
        assert fused.bytes_on_wire() == pytest.approx(fused.bytes_uncompressed() + flag)


@pytest.mark.parametrize(
    ("compressor", "ratio"),
    [
        (FP16(), 1.99),
        (BF16(), 1.99),
        (Int8(256), 3.9),
        (PowerSGD(4), 100),
        (RandomK(0.05), 19.5),
        (TopK(0.01), 24),
        (Sign(), 15),
    ],
)
def test_compression_of_large_matrices(compressor, ratio):
    slots = [Slot(f"{i}", (1024, 1024), tf.float32) for i in range(12)]
    fused = Fused(compressor, slots, 4, has_all_to_all=True)
    assert fused.bytes_uncompressed() / fused.bytes_on_wire() > ratio


@pytest.mark.parametrize("compressor", ALL, ids=str)
def test_collectives_do_not_grow_with_the_variables(compressor):
    def collectives(copies):
        slots = [s._replace(path=f"{i}/{s.path}") for i in range(copies) for s in SLOTS]
        fused = fused_for(compressor, 3, slots)
        own = gradients(3, slots=slots)
        _, sent = step(fused, own, [fused.init()] * 3)
        return [(one.round, one.collective, one.dtype) for one in sent]

    assert collectives(1) == collectives(4)
    assert len(collectives(1)) <= 3


@pytest.mark.parametrize(
    ("ranks", "bad", "where"),
    [
        (2, np.nan, 0),
        (3, -np.inf, 1),
        pytest.param(5, np.inf, 0, marks=pytest.mark.full),
    ],
)
@pytest.mark.parametrize("compressor", ALL, ids=str)
def test_a_gradient_that_is_not_finite_moves_nothing(compressor, where, bad, ranks):
    """On one rank, in a compressed (0) or an uncompressed (1) variable."""
    fused, record = recorded(compressor, ranks)
    own = gradients(ranks, 3)
    poisoned = own[ranks - 1][where].numpy()
    poisoned.flat[3] = bad
    own[ranks - 1][where] = tf.constant(poisoned)
    results, _ = step(fused, own, record.states)
    for before, result in zip(record.states, results, strict=True):
        assert not bool(result.finite)
        assert not any(total.numpy().any() for total in result.totals)
        for name, value in before.items():
            assert value.numpy().tobytes() == result.state[name].numpy().tobytes()


@RANKS
def test_a_sum_that_overflows_moves_nothing(ranks):
    fused = fused_for(PowerSGD(2), ranks)
    own = [[tf.fill(s.shape, 3e38) for s in SLOTS]] * ranks
    states = [fused.init()] * ranks
    results, _ = step(fused, own, states)
    assert not any(bool(result.finite) for result in results)
    for result in results:
        assert not any(total.numpy().any() for total in result.totals)


@pytest.mark.parametrize("compressor", ALL, ids=str)
def test_one_element_whose_sum_overflows_is_not_applied(compressor):
    """Also where no collective adds, but every rank what it has gathered."""
    fused = fused_for(compressor, 2)
    own = [tf.zeros(slot.shape) for slot in SLOTS]
    own[0] = tf.tensor_scatter_nd_update(own[0], [[0, 0]], [3e38])
    results, _ = step(fused, [own] * 2, [fused.init()] * 2)
    for result in results:
        assert all(np.isfinite(total.numpy()).all() for total in result.totals)
        assert bool(result.finite) == any(t.numpy().any() for t in result.totals)


@RANKS
@pytest.mark.parametrize("compressor", ALL, ids=str)
def test_zero_gradients_stay_zero(compressor, ranks):
    fused, _ = recorded(compressor, ranks)
    states = [fused.init() for _ in range(ranks)]
    for _ in range(2):
        own = [[tf.zeros(slot.shape) for slot in SLOTS]] * ranks
        results, _ = step(fused, own, states)
        states = [result.state for result in results]
        assert all(bool(result.finite) for result in results)
        for total in results[0].totals:
            np.testing.assert_array_equal(total, np.zeros(total.shape))


@pytest.mark.parametrize("compressor", ALL, ids=str)
def test_traced_and_eager_steps_agree(compressor):
    fused = fused_for(compressor, 3)
    traced = tf.function(
        lambda own, states: [tuple(r) for r in step(fused, own, states)[0]]
    )
    eager = graph = [fused.init() for _ in range(3)]
    for number in range(2):
        own = gradients(3, number)
        results, _ = step(fused, own, eager)
        eager = [result.state for result in results]
        outputs = traced(own, graph)
        graph = [state for _, state, _ in outputs]
        for one, other in zip(results[0].totals, outputs[0][0], strict=True):
            assert one.shape == other.shape
            np.testing.assert_allclose(one, other, atol=1e-5)
    assert traced.experimental_get_tracing_count() == 1


def test_draws_depend_on_seed_variable_and_step():
    def places(seed=0, path="a", number=0):
        fused = fused_for(
            RandomK(0.05), 2, [Slot(path, (24, 40), "float32")], seed=seed
        )
        state = fused.init() | {"step": tf.constant(number, tf.int64)}
        (first, _), _ = step(fused, [[tf.ones((24, 40))]] * 2, [state] * 2)
        return tuple(np.flatnonzero(first.totals[0]))

    drawn = [places(), places(seed=1), places(path="b"), places(number=1)]
    assert len(set(drawn)) == 4
    assert places() == drawn[0]
    assert places(seed=2**32 - 1)


def test_an_exchange_carries_the_rounds():
    class Alone:
        ranks, rank, has_all_to_all = 2, 0, False

        def __init__(self):
            self.calls = []

        def sum(self, tensor):
            self.calls.append("sum")
            return 2 * tensor

        def gather(self, tensor):
            self.calls.append("gather")
            return tf.stack([tensor, tensor])

    fused, exchange = fused_for(Sign(), 2, has_all_to_all=False), Alone()
    (own, _) = gradients(2)
    result = fused.reduce(own, fused.init(), exchange)
    same = perform(fused.rounds(own, fused.init(), 0), Alone())
    assert exchange.calls == ["sum", "gather"]
    np.testing.assert_array_equal(result.totals[0], same.totals[0])
    np.testing.assert_allclose(result.totals[1], 2 * own[1])
