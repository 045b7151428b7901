"""What each compressor declares about itself, measured on played ranks."""

import warnings

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.simulated import lockstep, step
from tfdist import compression
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
from tfdist.compression.compressor import Item, Place

settings.register_profile("tfdist", deadline=None, derandomize=True, max_examples=10)
settings.load_profile("tfdist")

FIVE = pytest.param(5, marks=pytest.mark.full)
ALL = [
    FP16(),
    BF16(),
    PowerSGD(2),
    PowerSGD(2, alternate=True),
    PowerSGD(2, warm_start=False),
    PowerSGD(2, wire="float16"),
    RandomK(0.1),
    RandomK(0.1, scaled=True),
    RandomK(0.1, wire="float16"),
    TopK(0.1),
    Int8(8),
    Int8(8, stochastic=True),
    Sign(),
]


def compress(compressor, tensors, *, number=0, state=None, has_all_to_all=True):
    """Return each rank's outcome of one tensor; `tensors` are by rank."""
    tensors = [tf.constant(tensor, tf.float32) for tensor in tensors]
    shape = tuple(tensors[0].shape)
    state = compressor.init(7, shape, 0) if state is None else state
    ranks = []
    for rank, tensor in enumerate(tensors):
        place = Place(
            len(tensors), rank, has_all_to_all, tf.constant(number, tf.int64), 0
        )
        ranks.append(compressor.rounds([Item(7, tensor, state)], place))
    results, _ = lockstep(ranks)
    return [outcomes[0] for outcomes in results]


def compressing(compressor, ranks, shape):
    """Return a traced function: ranks' tensors and step -> (total, locals)."""

    @tf.function
    def run(tensors, number):
        generators = []
        for rank in range(ranks):
            place = Place(ranks, rank, True, number, 0)
            item = Item(7, tensors[rank], compressor.init(7, shape, 0))
            generators.append(compressor.rounds([item], place))
        results, _ = lockstep(generators)
        return results[0][0].total, tf.stack([own[0].local for own in results])

    return run


def gradients(ranks, shape, seed=0, size=1.0):
    draws = np.random.default_rng(seed)
    return (draws.normal(size=(ranks, *shape)) * size).astype("f")


@pytest.mark.parametrize("ranks", [1, 2, 3, FIVE])
@pytest.mark.parametrize("has_all_to_all", [True, False])
@pytest.mark.parametrize("compressor", ALL, ids=str)
def test_shares_add_up_to_the_total(compressor, ranks, has_all_to_all):
    """What error feedback relies on; float16 alone also rounds in the sum."""
    own = gradients(ranks, (9, 14))
    outcomes = compress(compressor, own, has_all_to_all=has_all_to_all)
    total = outcomes[0].total.numpy()
    shares = sum(outcome.local.numpy().astype("f8") for outcome in outcomes)
    lossy = isinstance(compressor, FP16) or getattr(compressor, "wire", "") == "float16"
    np.testing.assert_allclose(shares, total, atol=0.02 if lossy else 2e-5)
    for outcome in outcomes[1:]:
        np.testing.assert_array_equal(outcome.total, total)
        for name, value in outcome.state.items():
            np.testing.assert_array_equal(value, outcomes[0].state[name])


def test_no_compression_is_the_plain_sum():
    own = gradients(2, (9, 14))
    outcomes = compress(NoCompression(), own)
    for outcome, tensor in zip(outcomes, own, strict=True):
        np.testing.assert_array_equal(outcome.total, own[0] + own[1])
        np.testing.assert_array_equal(outcome.local, tensor)
    assert NoCompression().payload([(9, 14)], 2, False) == [("sum", 4 * 9 * 14)]


def worst_loss(compressor, tensors):
    """Return the largest mean of ||x - C(x)||^2 / ||x||^2 over draws."""
    worst, run = 0.0, compressing(compressor, 1, tensors[0].shape)
    for own in tensors:
        losses = []
        for number in range(10):
            _, local = run([tf.constant(own)], tf.constant(number, tf.int64))
            lost = np.sum((own - local[0].numpy().astype("f8")) ** 2)
            losses.append(lost / np.sum(own.astype("f8") ** 2))
        worst = max(worst, float(np.mean(losses)))
    return worst


def hard_tensors():
    """Return what compressors find hard: dense, spiky, of full and of low rank."""
    shape = (8, 24)
    spiky = np.zeros(shape, "f")
    spiky[3, 5] = 1e3
    spiky[6, 1] = -1e-3
    return [
        gradients(1, shape)[0],
        np.sign(gradients(1, shape, 1)[0]),
        spiky,
        np.outer(np.arange(1, 9), np.ones(24)).astype("f"),
        np.eye(8, 24, dtype="f"),
        gradients(1, shape, 2, 1e15)[0],
        gradients(1, shape, 3, 1e-15)[0],
    ]


# float16 on the wire has no bound beyond its range.
BOUNDED = [c for c in ALL if c.name != "fp16" and getattr(c, "wire", "") != "float16"]


@pytest.mark.parametrize("compressor", BOUNDED, ids=str)
def test_contraction_is_as_declared(compressor):
    worst = worst_loss(compressor, hard_tensors())
    if compressor.contractive:
        assert worst < 0.999
    else:
        assert worst > 1.5


def test_int8_loses_no_more_than_its_bound():
    for block in (4, 64):
        bound = block / 254**2
        assert worst_loss(Int8(block), hard_tensors()) <= bound * 1.001


@pytest.mark.parametrize("sizes", [(1, 1), (1, 1e-3), (1e-20, 1e10), (0, 1)])
def test_two_ranks_lose_no_more_than_their_bound(sizes):
    """Of the energy of both together: the smaller one's may be lost altogether."""
    own = gradients(2, (8, 24)) * np.array(sizes, "f").reshape(2, 1, 1)
    outcomes = compress(Int8(64), own)
    shares = np.stack([outcome.local.numpy() for outcome in outcomes])
    lost = np.sum((own - shares.astype("f8")) ** 2) / np.sum(own.astype("f8") ** 2)
    assert 0 < lost <= 2 * 64 / 126**2


def test_levels_are_added_without_a_carry():
    """The largest and smallest sums of neighbours; -1 is a byte of ones."""
    signs = np.array([[1, 1, 1, -1, -1, -1, 1, 0], [1, -1, 0, -1, 1, 0, 1, -1]], "f")
    for stochastic in (False, True):
        outcomes = compress(Int8(8, stochastic), signs * 63)
        np.testing.assert_array_equal(outcomes[1].total, signs.sum(0) * 63)
        outcomes = compress(Int8(8, stochastic), signs + [[0] * 7 + [63]] * 2)
        np.testing.assert_array_equal(outcomes[1].total[:7], signs.sum(0)[:7])


@pytest.mark.parametrize("compressor", ALL, ids=str)
def test_unbiased_is_as_declared(compressor):
    """Monte Carlo: the mean of many draws is the sum of the gradients, or is not."""
    own = gradients(2, (8, 24))
    run = compressing(compressor, 2, (8, 24))
    tensors, draws = [tf.constant(part) for part in own], 500
    totals = np.stack(
        [run(tensors, tf.constant(n, tf.int64))[0].numpy() for n in range(draws)]
    ).astype("f8")
    error = totals.mean(0) - own.astype("f8").sum(0)
    deviation = totals.std(0) / np.sqrt(draws)
    if compressor.unbiased:
        assert (np.abs(error) < 5 * deviation + 1e-5).all()
    else:
        assert (np.abs(error) > 5 * deviation + 1e-5).any()


@pytest.mark.parametrize("compressor", ALL, ids=str)
def test_linear_is_as_declared(compressor):
    """Only the sum of the contributions counts, however the ranks share it."""
    own = gradients(3, (9, 14))
    total = own.sum(0)
    totals = [
        compress(compressor, parts)[0].total.numpy()
        for parts in (own, np.stack([total, 0 * total, 0 * total]))
    ]
    alike = np.abs(totals[0] - totals[1]).max() < 1e-5
    assert alike == compressor.linear


@pytest.mark.parametrize("ranks", [1, 2, 3, FIVE])
@pytest.mark.parametrize(
    "compressor",
    [
        RandomK(1.0),
        RandomK(1.0, scaled=True),
        TopK(1.0),
        PowerSGD(9, min_compression_rate=0.01),
    ],
    ids=str,
)
def test_nothing_left_out_equals_dense(compressor, ranks):
    own = gradients(ranks, (9, 14))
    total = compress(compressor, own)[0].total.numpy()
    np.testing.assert_allclose(total, own.astype("f8").sum(0), atol=3e-5)


def test_powersgd_finds_a_low_rank_gradient_at_once():
    draws = np.random.default_rng(0)
    left, right = draws.normal(size=(2, 30, 2)), draws.normal(size=(2, 40, 2))
    own = np.einsum("rik,rjk->rij", left, right[:1].repeat(2, 0)).astype("f")
    total = compress(PowerSGD(2), own)[0].total.numpy()
    np.testing.assert_allclose(total, own.sum(0), atol=1e-4)


@pytest.mark.parametrize("alternate", [False, True])
def test_a_warm_start_converges_to_the_best_approximation(alternate):
    own = gradients(1, (30, 40))
    _, values, _ = np.linalg.svd(own[0])
    best = np.sqrt((values[4:] ** 2).sum())
    compressor, losses = PowerSGD(4, alternate=alternate), []
    state = compressor.init(7, (30, 40), 0)
    for number in range(80):
        (outcome,) = compress(compressor, own, number=number, state=state)
        state = outcome.state
        losses.append(np.linalg.norm(own[0] - outcome.total.numpy()))
    assert losses[0] > 1.1 * best
    assert losses[-1] < 1.01 * best


def test_powersgd_goes_on_after_a_gradient_of_zeros():
    """Zero columns of Q are drawn anew: not even dead first rows can stall it."""
    compressor = PowerSGD(2)
    state = compressor.init(7, (30, 40), 0)
    zeros = np.zeros((1, 30, 40), "f")
    (outcome,) = compress(compressor, zeros, state=state)
    assert np.isfinite(outcome.total.numpy()).all()
    left, right = np.r_[np.zeros(10), np.ones(20)], np.arange(40.0)
    own = np.outer(left, right).astype("f")[np.newaxis]
    (outcome,) = compress(compressor, own, number=1, state=outcome.state)
    np.testing.assert_allclose(outcome.total.numpy(), own[0], atol=1e-3)


def test_sign_leaves_unused_rows_and_columns_alone():
    own = gradients(3, (12, 10))
    own[:, 4] = 0
    own[:, :, 7] = 0
    total = compress(Sign(), own)[0].total.numpy()
    assert not total[4].any() and not total[:, 7].any()
    assert (np.delete(np.delete(total, 4, 0), 7, 1) != 0).all()


def test_sign_sends_the_mean_magnitude():
    own = np.array([[[1.0, -2.0], [3.0, -6.0]]], "f")
    (outcome,) = compress(Sign(), own)
    np.testing.assert_array_equal(outcome.total, [[3, -3], [3, -3]])


def test_top_k_sends_the_largest():
    own = np.arange(-10, 10, dtype="f").reshape(1, 4, 5)
    (outcome,) = compress(TopK(0.15), own)
    assert sorted(outcome.total.numpy()[outcome.total.numpy() != 0]) == [-10, -9, 9]


def test_stochastic_ranks_round_independently():
    """Equal gradients, rounded alike, would not average their errors out."""
    own = np.repeat(gradients(1, (8, 24)), 2, 0)
    outcomes = compress(Int8(8, stochastic=True), own)
    assert not np.array_equal(outcomes[0].local, outcomes[1].local)


shapes = st.one_of(
    st.just(()),
    st.lists(st.integers(0, 4), min_size=1, max_size=5).map(tuple),
    st.integers(1, 70).map(lambda n: (1, n)),
    st.integers(1, 70).map(lambda n: (n, 1)),
)
sizes = st.sampled_from([0.0, 1e-42, 1e-30, 1.0, 1e30])
dtypes = st.sampled_from(["float16", "float32", "float64", "bfloat16"])


@pytest.mark.parametrize("compressor", ALL, ids=str)
@given(st.lists(st.tuples(shapes, dtypes, sizes), max_size=4), st.sampled_from([2, 3]))
def test_any_shape_dtype_and_size(compressor, variables, ranks):
    """Two steps: finite, equal on all ranks, and the bytes of the formula."""
    slots = [
        Slot(f"v{i}", shape, tf.as_dtype(dtype))
        for i, (shape, dtype, _) in enumerate(variables)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # for so few elements nothing pays
        fused = Fused(compressor, slots, ranks, has_all_to_all=True, min_size=0)
    states = [fused.init()] * ranks
    draws = np.random.default_rng(len(slots))
    for _ in range(2):
        own = [
            [
                tf.constant(np.clip(draws.normal(size=s) * size, -2e4, 2e4), t)
                if t == "float16"
                else tf.cast(tf.constant(draws.normal(size=s) * size), t)
                for s, t, size in variables
            ]
            for _ in range(ranks)
        ]
        steps, sent = step(fused, own, states)
        states = [each.state for each in steps]
        for each in steps:
            assert bool(each.finite)
            for total, first, slot in zip(
                each.totals, steps[0].totals, slots, strict=True
            ):
                assert total.dtype == slot.dtype and total.shape == slot.shape
                assert np.isfinite(tf.cast(total, tf.float64).numpy()).all()
                assert np.array_equal(total.numpy(), first.numpy())
            for value in each.state.values():
                assert np.isfinite(value.numpy()).all()
        assert dict(fused.payload()) == {
            kind: sum(s.bytes for s in sent if s.collective == kind)
            for kind in {s.collective for s in sent}
        }


def test_the_list_above_leaves_none_out():
    assert {c.name for c in ALL} == set(compression.names()) - {"none"}
