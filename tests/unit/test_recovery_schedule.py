"""When checkpoints are due: by steps, by a clock that ranks share, at least cost."""

import pytest

from tfdist.callbacks.recovery_schedule import (
    EverySeconds,
    EverySteps,
    best_interval,
    schedule_for,
)


def steps_saved(schedule, steps, seconds_of, cost=0.0, stride=1):
    """Return the steps that are saved, and when, of a training with a clock."""
    now, saved = 0.0, []
    schedule.begin(0, now)
    for step in range(stride, steps + 1, stride):
        now += seconds_of(step)
        if schedule.is_due(step, now):
            now += cost
            schedule.saved(step, now, cost)
            saved.append((step, now))
    return saved


@pytest.mark.parametrize(
    ("interval", "stride", "expected"),
    [
        (3, 1, [3, 6, 9, 12]),
        (3, 2, [4, 6, 10, 12]),
        (5, 4, [8, 12]),
        (1, 4, [4, 8, 12]),
    ],
)
def test_every_so_many_steps_also_within_executions(interval, stride, expected):
    saved = steps_saved(EverySteps(interval), 12, lambda step: 1.0, stride=stride)
    assert [step for step, _ in saved] == expected


def test_a_run_that_goes_on_keeps_to_the_multiples():
    schedule = EverySteps(10)
    schedule.begin(17, 0.0)
    assert not schedule.is_due(19, 1.0)
    assert schedule.is_due(20, 1.0)


@pytest.mark.parametrize("first", [0.1, 5.0])  # tracing takes long
def test_every_so_many_seconds_with_few_meetings(first):
    meetings = []

    def of_chief(value):
        meetings.append(value)
        return value

    schedule = EverySeconds(lambda cost: 10.0, 0.0, of_chief)
    saved = steps_saved(schedule, 1000, lambda step: first if step == 1 else 0.1)
    times = [now for _, now in saved]
    gaps = [later - sooner for sooner, later in zip([0.0, *times], times, strict=False)]
    assert len(saved) in (9, 10)
    assert all(10.0 <= gap < 10.3 for gap in gaps), gaps
    assert len(meetings) < 12 * len(saved)


def test_the_ranks_save_at_the_same_steps_by_the_chiefs_clock():
    told = []

    def listening(value):
        told.append(value)
        return value

    chief = EverySeconds(lambda cost: 5.0, 0.0, listening)
    expected = [s for s, _ in steps_saved(chief, 300, lambda step: 0.1)]
    answers = iter(told)
    other = EverySeconds(lambda cost: 5.0, 0.0, lambda value: next(answers))
    assert [s for s, _ in steps_saved(other, 300, lambda step: 0.37)] == expected


def test_steps_that_become_slow_are_noticed():
    schedule = EverySeconds(lambda cost: 10.0, 0.0, lambda value: value)
    saved = steps_saved(schedule, 400, lambda step: 0.1 if step < 150 else 2.0)
    slow = [now for step, now in saved if step > 150]
    gaps = [later - sooner for sooner, later in zip(slow, slow[1:], strict=False)]
    assert len(gaps) > 10
    assert all(gap <= 12.0 for gap in gaps), gaps


def test_the_interval_of_least_loss():
    assert best_interval(0.5, 3600.0, 0.01) == 60.0
    # 1 % of the time is spent at most, also where failures are frequent.
    assert best_interval(0.5, 60.0, 0.01) == 50.0

    def lost(interval):
        return 0.5 / interval + interval / (2 * 3600.0)

    assert all(lost(60.0) < lost(60.0 * factor) for factor in (0.8, 0.9, 1.1, 1.25))


def test_the_cost_that_was_measured_sets_the_interval():
    schedule = schedule_for(
        None, None, lambda cost: 100 * cost, int(0.01e9), lambda value: value
    )
    saved = steps_saved(schedule, 2000, lambda step: 0.01, cost=0.05)
    times = [now for _, now in saved]
    assert 1.0 <= times[0] < 1.2  # guessed from the size
    assert all(5.0 <= b - a < 5.4 for a, b in zip(times, times[1:], strict=False))


def test_arguments_choose_the_schedule():
    by_steps = schedule_for(7, None, lambda cost: 1.0, 1, lambda value: value)
    by_time = schedule_for(None, 2.0, lambda cost: 1.0, 1, lambda value: value)
    assert isinstance(by_steps, EverySteps)
    saved = steps_saved(by_time, 40, lambda step: 0.1)
    assert saved[0][0] == 20
