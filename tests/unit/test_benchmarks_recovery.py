"""What a save costs, from made-up steps."""

import numpy as np
import pytest

from benchmarks.recovery.report import blocking, overheads, saving_table
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
    found = overheads(steps(3, blocked=0.02, written=0.03), EVERY)
    np.testing.assert_allclose(found, [0.05] * 3)  # of 10 steps of 0.1 s
    np.testing.assert_allclose(blocking(steps(3, blocked=0.02), EVERY), [0.02] * 4)


def test_where_nothing_is_saved_nothing_is_found():
    assert overheads(steps(3, blocked=0.0), EVERY) == pytest.approx([0.0] * 3)


def test_the_table_shows_what_is_believed_of_it_in_a_row_without_saves():
    found = {
        "parameters": 10**6,
        "bytes": 10**7,
        "every": EVERY,
        "seconds": {NONE: [steps(2, 0.0)], "Own": [steps(2, 0.01), steps(2, 0.03)]},
    }
    table = saving_table(found)
    assert f"| {NONE} | 0 | 0 | +0.00% |" in table
    assert "| Own | 20 | 30 | +2.00% | +1.00% to +3.00% |" in table
