"""The table of callbacks' overheads, from made-up measurements."""

import numpy as np
import pytest

from benchmarks.callbacks import report
from benchmarks.callbacks.candidates import NONE


@pytest.mark.parametrize("true", [0.0, 0.02, 0.3])
def test_the_interval_holds_the_truth_where_rounds_differ_more_than_turns(true):
    draws = np.random.default_rng(3)
    rounds = draws.uniform(0.01, 0.03, 15)
    own = rounds * (1 + true) * draws.normal(1, 0.01, 15)
    middle, low, high = report.overhead(own, rounds * draws.normal(1, 0.01, 15))
    assert low <= middle <= high
    assert low <= true <= high
    assert high - low < 0.03


def test_an_interval_does_not_hold_everything():
    _, low, _ = report.overhead([1.1, 1.1, 1.11], [1.0, 1.0, 1.0])
    assert low > 0.05


def test_the_table_takes_the_median_of_epochs_and_names_what_is_left():
    found = {
        "seconds": {NONE: [[0.01, 0.01, 9.0]] * 3, "Slow": [[0.02, 0.02, 0.1]] * 3},
        "operations": {NONE: 0, "Slow": 7},
    }
    rows = report.report(found).splitlines()
    assert "| 10.000 |  |  | 0 operations |" in rows[2]
    assert "| 20.000 | +100.0% | +100.0% to +100.0% | 7 operations |" in rows[3]
