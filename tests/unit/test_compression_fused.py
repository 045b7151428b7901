"""The invariants of a compressed step, on 2, 3 and 5 played ranks."""

import functools
import warnings
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from tests.simulated import Sent, step
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
    share_residuals,
)
from tfdist.compression.fused import Step
from tfdist.compression.rounds import perform

SLOTS = [
    Slot("first/kernel", (24, 40), tf.float32),
    Slot("first/bias", (40,), tf.float32),
    Slot("convolution/kernel", (3, 3, 4, 16), tf.float32),
    Slot("scale", (), tf.float32),
    Slot("attention/kernel", (24, 5, 8), tf.float32),
    Slot("last/kernel", (40, 3), tf.float32),
]
WITH_FEEDBACK = [
    PowerSGD(2),
    PowerSGD(2, alternate=True),
    PowerSGD(2, warm_start=False),
    RandomK(0.05),
    TopK(0.05),
    Int8(16),
    Int8(16, stochastic=True),
    Sign(),
]
ALL = [NoCompression(), FP16(), BF16(), *WITH_FEEDBACK]
EITHER = pytest.mark.parametrize("has_all_to_all", [True, False])
FIVE = pytest.param(5, marks=pytest.mark.full)
RANKS = pytest.mark.parametrize("ranks", [2, 3, FIVE])


def fused_for(compressor, ranks, slots=SLOTS, **options):
    options = {"has_all_to_all": True, "min_size": 200, **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # small models gain little
        return Fused(compressor, slots, ranks, **options)


def gradients(ranks, number=0, slots=SLOTS):
    draws = np.random.default_rng([ranks, number])
    return [
        [
            tf.constant(draws.normal(size=slot.shape) / ranks, slot.dtype)
            for slot in slots
        ]
        for _ in range(ranks)
    ]


class Run(NamedTuple):
    """Some steps: what happened, and sums over them of updates and gradients."""

    steps: list[list[Step]]  # by step, by rank
    sent: list[Sent]  # in the last step
    updates: list[np.ndarray]
    wanted: list[np.ndarray]

    @property
    def states(self):
        return [result.state for result in self.steps[-1]]


def run(fused, steps, ranks):
    """Run steps with new gradients each."""
    states = [fused.init() for _ in range(ranks)]
    updates = [np.zeros(slot.shape) for slot in SLOTS]
    wanted = [np.zeros(slot.shape) for slot in SLOTS]
    history = []
    for number in range(steps):
        own = gradients(ranks, number)
        results, sent = step(fused, own, states)
        states = [result.state for result in results]
        history.append(results)
        for index in range(len(SLOTS)):
            updates[index] += results[0].totals[index].numpy().astype("f8")
            wanted[index] += sum(part[index].numpy().astype("f8") for part in own)
    return Run(history, sent, updates, wanted)


@functools.cache
def recorded(compressor, ranks, has_all_to_all=True):
    """Return a step's driver and three steps of it: many tests look at the same."""
    fused = fused_for(compressor, ranks, has_all_to_all=has_all_to_all)
    return fused, run(fused, 3, ranks)


def residuals(states):
    """Return the sum over the ranks of each residual."""
    return {
        name.removeprefix("residual/"): sum(
            s[name].numpy().astype("f8") for s in states
        )
        for name in states[0]
        if name.startswith("residual/")
    }


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


@RANKS
@EITHER
@pytest.mark.parametrize("compressor", WITH_FEEDBACK, ids=str)
def test_what_was_not_sent_is_in_the_residuals(compressor, ranks, has_all_to_all):
    """The sum of all updates and the residuals is the sum of all gradients."""
    _, record = recorded(compressor, ranks, has_all_to_all)
    left = residuals(record.states)
    assert left and any(np.abs(value).max() > 1e-3 for value in left.values())
    for slot, update, want in zip(SLOTS, record.updates, record.wanted, strict=True):
        found = update + left.get(slot.path, 0)
        np.testing.assert_allclose(found, want, atol=5e-6)


def test_without_error_feedback_something_is_lost():
    fused = fused_for(TopK(0.05), 2, error_feedback=False)
    record = run(fused, 3, 2)
    assert not residuals(record.states)
    assert np.abs(record.updates[0] - record.wanted[0]).max() > 0.1


@pytest.mark.parametrize("compressor", ALL, ids=str)
def test_one_rank_changes_nothing(compressor):
    fused = fused_for(compressor, 1)
    (own,) = gradients(1)
    (result,), sent = step(fused, [own], [fused.init()])
    assert not sent and not fused.payload()
    assert all(a is b for a, b in zip(result.totals, own, strict=True))


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


@pytest.mark.parametrize("others", [2, FIVE])
@pytest.mark.parametrize("compressor", WITH_FEEDBACK, ids=str)
def test_residuals_survive_another_number_of_ranks(compressor, others):
    """Their sum always; for linear compressors the whole trajectory."""
    fused, record = recorded(compressor, 3)
    states = record.states
    before = residuals(states)
    saved = dict(states[0]) | {
        f"residual/{path}": tf.constant(value, tf.float32)
        for path, value in before.items()
    }
    restored = [share_residuals(saved, others) for _ in range(others)]
    for path, value in residuals(restored).items():
        np.testing.assert_allclose(value, before[path], atol=1e-6)
    if not compressor.linear:
        return
    # The same sums of gradients, on another number of ranks.
    again = fused_for(compressor, others)
    for number in range(3):
        own = gradients(3, 10 + number)
        shared = [
            [tf.add_n([part[i] for part in own]) / others for i in range(len(SLOTS))]
        ] * others
        kept, _ = step(fused, own, states)
        moved, _ = step(again, shared, restored)
        states = [result.state for result in kept]
        restored = [result.state for result in moved]
        for one, other in zip(kept[0].totals, moved[0].totals, strict=True):
            np.testing.assert_allclose(one, other, atol=2e-4)


@pytest.mark.parametrize("compressor", WITH_FEEDBACK, ids=str)
def test_residuals_stay_bounded(compressor):
    fused = fused_for(compressor, 2, SLOTS[:1])

    @tf.function
    def one(states, number):
        own = [[tf.random.stateless_normal((24, 40), [r, number])] for r in range(2)]
        return [result.state for result in step(fused, own, states)[0]]

    states, norms = [fused.init()] * 2, []
    for number in range(200):
        states = one(states, tf.constant(number))
        norms.append(np.linalg.norm(states[0]["residual/first/kernel"]))
    assert max(norms[100:]) < 1.5 * max(norms[:100])


def test_residuals_forget_what_ranks_disagree_on():
    """The residual is what the own share lacks, not what the mean lacks.

    Opposite gradients: the mean is always zero. Measured by it, nothing would ever
    have been sent, and after 40 steps residuals would hold 40 gradients.
    """
    fused = fused_for(RandomK(0.2), 2, SLOTS[:1])
    (gradient,), states = gradients(1, slots=SLOTS[:1])[0], [fused.init()] * 2
    for _ in range(40):
        results, _ = step(fused, [[gradient], [-gradient]], states)
        states = [result.state for result in results]
    held = np.linalg.norm(states[0]["residual/first/kernel"])
    assert held < 12 * np.linalg.norm(gradient)


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


def test_the_residual_can_follow_the_learning_rate():
    fused = fused_for(TopK(0.05), 2)
    states = run(fused, 1, 2).states
    zeros = [[tf.zeros(slot.shape) for slot in SLOTS]] * 2
    once, _ = step(fused, zeros, states)
    tenfold, _ = step(fused, zeros, states, residual_scale=10.0)
    np.testing.assert_allclose(
        tenfold[0].totals[0], 10 * once[0].totals[0].numpy(), rtol=1e-5
    )


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


def converged(compressor, start, gradient, rate, steps):
    """Return where descent ends on two ranks that see the same gradient."""
    fused = fused_for(
        compressor, 2, [Slot("w", (1, len(start)), "float32")], min_size=0
    )

    @tf.function
    def descend(weights, states):
        own = [[gradient(weights) / 2]] * 2
        results, _ = step(fused, own, states)
        return weights - rate * results[0].totals[0], [r.state for r in results]

    weights, states = tf.constant([start]), [fused.init()] * 2
    for _ in range(steps):
        weights, states = descend(weights, states)
    return weights.numpy()[0]


def test_sign_needs_error_feedback():
    """Karimireddy et al. 2019, counter-example 2: min e|x1 + x2| + |x1 - x2|.

    The sign of every subgradient is (+-1, -+1): without error feedback, x1 + x2
    never changes. With it, descent reaches the minimum at 0.
    """

    class Careless(Sign):
        needs_feedback = False
        feedback = False

    def gradient(weights):
        one, other = tf.constant([[1.0, 1.0]]), tf.constant([[1.0, -1.0]])
        return (
            0.5 * tf.sign(tf.reduce_sum(weights * one)) * one
            + tf.sign(tf.reduce_sum(weights * other)) * other
        )

    start = [1.0, 0.9]
    stuck = converged(Careless(), start, gradient, 0.004, 1000)
    assert stuck.sum() == pytest.approx(1.9, abs=0.01)
    found = converged(Sign(), start, gradient, 0.004, 1000)
    assert np.abs(found).max() < 0.05
