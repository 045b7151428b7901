"""The soak itself, small, and that it would notice what it is there to notice."""

import pytest

from tests.soak.__main__ import soak
from tests.soak.killer import Round, Start


def test_trainings_that_are_killed_at_random_lose_nothing(tmp_path):
    assert soak(tmp_path, "default", kills=2, seed=5) == ""


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("strategy", ["gloo", "multiworker"])
@pytest.mark.failure(32)
def test_two_ranks_that_are_killed_at_random_lose_nothing(tmp_path, strategy):
    assert soak(tmp_path, strategy, kills=8, seed=11) == ""


def test_what_was_lost_and_repeated_is_counted():
    starts = [Start(8, 11, 0, True), Start(4, 12, 4, True), Start(resumed=12)]
    played = Round(starts)
    assert played.kills == 2 and not played.died_by_itself()
    assert played.lost() == [4, -4]  # the second start did not find step 8
    assert played.repeated() == [7, 0]


def test_a_start_that_fails_by_itself_is_noticed():
    assert Round([Start(killed=True), Start(), Start()]).died_by_itself()


def test_a_start_that_was_killed_before_it_went_on_tells_nothing():
    played = Round([Start(8, 9, 0, True), Start(8, 0, None, True), Start(resumed=8)])
    assert played.lost() == [0] and played.repeated() == [1]
