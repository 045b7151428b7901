"""The table of callbacks' overheads, from made-up measurements."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from benchmarks.callbacks import report
from benchmarks.callbacks.candidates import NONE
from benchmarks.callbacks.relay import Pace, Relay


@pytest.mark.parametrize("true", [0.0, 0.02, 0.3])
def test_the_interval_holds_the_truth_where_epochs_differ_more_than_turns(true):
    draws = np.random.default_rng(3)
    epochs = draws.uniform(0.01, 0.03, 15)
    own = epochs * (1 + true) * draws.normal(1, 0.01, 15)
    middle, low, high = report.overhead(own, epochs * draws.normal(1, 0.01, 15))
    assert low <= middle <= high
    assert low <= true <= high
    assert high - low < 0.03


def test_an_interval_does_not_hold_everything():
    _, low, _ = report.overhead([1.1, 1.1, 1.11], [1.0, 1.0, 1.0])
    assert low > 0.05


def test_the_table_takes_the_median_of_epochs_and_names_what_is_left():
    found = {
        "seconds": {NONE: [0.01] * 20 + [9.0], "Slow": [0.02] * 20 + [0.1]},
        "operations": {NONE: 0, "Slow": 7},
    }
    rows = report.report(found).splitlines()
    assert "| 10.000 |  |  | 0 operations |" in rows[2]
    assert "| 20.000 | +100.0% | +100.0% to +100.0% | 7 operations |" in rows[3]


def test_fits_take_turns_and_a_failure_ends_all():
    relay, order = Relay(3), []

    def fit(runner, *, fails):
        pace = Pace(relay, runner, block=2)
        relay.wait(runner)
        try:
            for epoch in range(2):
                for batch in range(4):
                    pace.on_train_batch_begin(batch)
                    order.append((runner, epoch, batch))
                    if fails and epoch:
                        raise OSError("disk full")
        except OSError as error:
            relay.leave(error)
            raise
        relay.leave()
        return pace.epochs

    def run(**options):
        with ThreadPoolExecutor(3) as pool:
            return [pool.submit(fit, each, **options) for each in range(3)]

    assert [len(each.result(timeout=10)) for each in run(fails=False)] == [2, 2, 2]
    assert order == [
        (runner, epoch, batch + more)
        for epoch in range(2)
        for batch in (0, 2)
        for runner in range(3)
        for more in (0, 1)
    ]
    relay = Relay(3)
    errors = [type(each.exception(timeout=10)) for each in run(fails=True)]
    assert errors == [OSError, RuntimeError, RuntimeError]
