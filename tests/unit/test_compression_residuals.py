"""Error feedback: what was not sent is kept, and comes later."""

import numpy as np
import pytest
import tensorflow as tf

from tests.compressed_runs import (
    EITHER,
    FIVE,
    RANKS,
    SLOTS,
    WITH_FEEDBACK,
    fused_for,
    gradients,
    recorded,
    residuals,
    run,
)
from tests.simulated import step
from tfdist.compression import RandomK, Sign, Slot, TopK, residuals_for


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


def as_saved(state):
    """Return a state as a process with one replica saves it."""
    return {
        name: value.numpy()[np.newaxis] if name.startswith("residual/") else value
        for name, value in state.items()
    }


def as_state(arrays):
    return {
        name: tf.constant(value[0] if name.startswith("residual/") else value)
        for name, value in arrays.items()
    }


def test_the_same_number_of_ranks_gets_its_own_residuals():
    _, record = recorded(TopK(0.05), 3)
    saved = [as_saved(state) for state in record.states]
    for rank, state in enumerate(saved):
        own = residuals_for(saved, replicas=3, first=rank, count=1)
        for name, value in state.items():
            np.testing.assert_array_equal(own[name], value)


@pytest.mark.failure(36)
@pytest.mark.parametrize("others", [2, FIVE])
@pytest.mark.parametrize("compressor", WITH_FEEDBACK, ids=str)
def test_residuals_survive_another_number_of_ranks(compressor, others):
    """Their sum always; for linear compressors the whole trajectory."""
    fused, record = recorded(compressor, 3)
    states = record.states
    before = residuals(states)
    saved = [as_saved(state) for state in states]
    restored = [
        as_state(residuals_for(saved, replicas=others, first=rank, count=1))
        for rank in range(others)
    ]
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


@pytest.mark.failure(36)
@pytest.mark.parametrize("compressor", WITH_FEEDBACK, ids=str)
def test_one_rank_gets_all_that_several_have_left(compressor):
    _, record = recorded(compressor, 3)
    left = residuals(record.states)
    saved = [as_saved(state) for state in record.states]
    state = as_state(residuals_for(saved, replicas=1, first=0, count=1))
    alone = fused_for(compressor, 1)
    (own,) = gradients(1)
    (overflown,), _ = step(alone, [[g + np.inf for g in own]], [state])
    assert not overflown.finite
    (result,), _ = step(alone, [own], [overflown.state])
    for slot, gradient, total in zip(SLOTS, own, result.totals, strict=True):
        want = gradient + left.get(slot.path, 0)
        np.testing.assert_allclose(total, want, atol=1e-6)
    assert not any(value.any() for value in residuals([result.state]).values())


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


def test_the_residual_can_follow_the_learning_rate():
    fused = fused_for(TopK(0.05), 2)
    states = run(fused, 1, 2).states
    zeros = [[tf.zeros(slot.shape) for slot in SLOTS]] * 2
    once, _ = step(fused, zeros, states)
    tenfold, _ = step(fused, zeros, states, residual_scale=10.0)
    np.testing.assert_allclose(
        tenfold[0].totals[0], 10 * once[0].totals[0].numpy(), rtol=1e-5
    )


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
