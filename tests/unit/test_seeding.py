"""Seeds: equal where ranks must agree, different where replicas must not."""

from __future__ import annotations

import random

import numpy as np
import pytest

from tfdist.seeding import current_seed, replica_seed, set_seed

GOLDEN = [790680964, 1962848292, 1584197082]  # of seed 1


def test_the_same_seed_draws_the_same_and_another_does_not():
    def draws(seed):
        set_seed(seed)
        return random.random(), float(np.random.rand())

    assert draws(5) == draws(5)
    assert draws(5) != draws(6)


def test_the_last_seed_is_remembered():
    set_seed(7)
    assert current_seed() == 7
    set_seed(0)
    assert current_seed() == 0


def test_replica_seeds_are_fixed_for_ever():
    # Their change would change every run that has a dropout layer.
    assert [replica_seed(1, replica) for replica in range(3)] == GOLDEN


def test_replica_seeds_differ_between_seeds_and_replicas():
    seeds = {replica_seed(seed, replica) for seed in range(64) for replica in range(64)}
    assert len(seeds) == 64 * 64  # a sum would leave 127
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_neighbouring_replicas_share_half_of_their_bits():
    flips = [
        (replica_seed(seed, 0) ^ replica_seed(seed, 1)).bit_count()
        for seed in range(1000)
    ]
    assert 15 < sum(flips) / len(flips) < 16  # 15.5 of 31


@pytest.mark.parametrize("seed", [1.0, "1", None, True])
def test_a_seed_that_is_no_integer(seed):
    with pytest.raises(TypeError, match="HINT"):
        set_seed(seed)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range(seed):
    with pytest.raises(ValueError, match=r"from 0 to 2\*\*32 - 1"):
        set_seed(seed)
    with pytest.raises(ValueError, match="HINT"):
        replica_seed(seed, 0)
    with pytest.raises(ValueError, match="replica must be"):
        replica_seed(0, seed)
