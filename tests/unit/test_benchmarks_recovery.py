"""What a save costs, from made-up steps."""

import numpy as np
import pytest

from benchmarks.recovery.report import blocking, costs, median_interval, saving_table
from benchmarks.recovery.savers import NONE

EVERY = 10


def steps(saves: int, blocked: float, written: float = 0.0) -> list[float]:
    """Steps of 0.1 s that drift; a save blocks, and slows the next three down."""
    taken = np.full(EVERY * (saves + 1), 0.1)
    for save in range(1, saves + 2):
        place = EVERY * save - 1
        taken[place] += blocked
        taken[place + 1 : place + 4] += written / 3
    return list(taken)


def test_a_save_costs_what_it_blocks_and_what_its_writing_takes():
    found = costs(steps(3, blocked=0.02, written=0.03), EVERY)
    np.testing.assert_allclose(found, [0.05] * 3)
    np.testing.assert_allclose(blocking(steps(3, blocked=0.02), EVERY), [0.02] * 4)


def test_where_nothing_is_saved_nothing_is_found():
    assert costs(steps(3, blocked=0.0), EVERY) == pytest.approx([0.0] * 3)


def test_the_table_shows_what_is_believed_of_it_in_a_row_without_saves():
    found = {
        "parameters": 10**6,
        "bytes": 10**7,
        "every": EVERY,
        "seconds": {NONE: [steps(2, 0.0)], "Own": [steps(2, 0.01), steps(2, 0.03)]},
    }
    table = saving_table(found)
    assert f"| {NONE} | 0 | 0 | 0 | 0 to 0 | 0.00% |" in table
    assert "| Own | 20 | 30 | 20 | 10 to 30 | 0.20% |" in table


def test_the_interval_of_a_median_leaves_it_out_as_rarely_as_it_says():
    draws = np.random.default_rng(1).exponential(size=(4000, 30))
    found = np.array([median_interval(each) for each in draws])
    inside = np.mean((found[:, 0] <= np.log(2)) & (np.log(2) <= found[:, 1]))
    assert 0.93 <= inside <= 0.985  # exactly 0.957, as 30 values are countable
