"""What follows when a job has ended: every short history, against plain rules."""

import itertools
import math

import pytest

from tfdist.launch.run.endings import REPEATED, Ending
from tfdist.launch.run.restarts import History, Policy

DONE = Ending(0)
PREEMPTED = Ending(143, "rank 0 was ended by SIGTERM", reached=5)
LEFT_FOR_SLURM = Ending(138, "rank 1 ended with exit code 138", reached=5)
CTRL_C = Ending(130, interrupted=True)


def failure(reached=None, code=1):
    return Ending(code, "rank 1 failed", reached=reached)


def decisions(policy, *endings):
    history = History(policy)
    return [history.judge(ending) for ending in endings]


@pytest.mark.parametrize("ending", [DONE, CTRL_C, failure(3, 7), PREEMPTED, failure()])
def test_by_default_nothing_is_started_again(ending):
    (decision,) = decisions(Policy(), ending)
    assert decision.code == ending.code and not decision.counted


def test_every_history_of_five_endings_obeys_the_rules():
    """Budgets, causes that end at once, and repeats: each rule by itself."""
    kinds = {
        "same step": failure(5),
        "a step further": None,
        "preempted": PREEMPTED,
        "told to end": Ending(143, interrupted=True),
        "done": DONE,
    }
    limits = itertools.product((0, 1, 3), (0, 2, math.inf), (0, 2, 3))
    checked = 0
    for restarts, preemptions, repeats in limits:
        policy = Policy(restarts, preemptions, repeats)
        for names in itertools.product(kinds, repeat=5):
            history = History(policy)
            failures: list[int] = []
            preempted = 0
            for number, name in enumerate(names):
                ending = kinds[name] or failure(10 + number)
                decision = history.judge(ending)
                if name in ("told to end", "done") or not policy.is_on:
                    assert decision.code == ending.code
                    break
                if name == "preempted":
                    preempted += 1
                    spent = preempted > preemptions
                else:
                    failures.append(ending.reached)
                    spent = len(failures) > restarts
                    row = failures[-repeats:] if repeats else []
                    if len(row) == repeats > 0 and len(set(row)) == 1:
                        assert decision.code == REPEATED
                        break
                assert decision.code == (ending.code if spent else None)
                checked += 1
                if spent:
                    break
                assert history.starts == len(failures) + preempted
    assert checked > 10_000


def test_failures_and_preemptions_are_counted_apart():
    policy = Policy(restarts=1, preemptions=2)
    found = decisions(
        *(policy, PREEMPTED, failure(7), LEFT_FOR_SLURM, failure(9, code=3))
    )
    assert [one.counted for one in found] == [
        "preemption 1 of 2",
        "failure 1 of 1",
        "preemption 2 of 2",
        "no restart is left after 1",
    ]
    assert [one.code for one in found] == [None, None, None, 3]


def test_preemptions_may_be_passed_on():
    assert decisions(Policy(restarts=5), PREEMPTED)[0].code == 143
    assert (
        decisions(Policy(restarts=5, preemptions=math.inf), PREEMPTED)[0].code is None
    )


def test_a_step_that_always_fails_is_named():
    policy = Policy(restarts=10)
    *first, last = decisions(policy, failure(56), failure(57), failure(57), failure(57))
    assert [one.code for one in first] == [None] * 3
    assert last.code == REPEATED
    assert "right after step 57 3 times in a row" in last.counted


def test_progress_or_another_step_begins_the_row_anew():
    policy = Policy(restarts=10)
    steps = (57, 57, 90, 57, 57, 90, 57)
    assert all(one.code is None for one in decisions(policy, *map(failure, steps)))


def test_a_preemption_between_two_failures_does_not_hide_the_step():
    policy = Policy(restarts=10, preemptions=math.inf)
    found = decisions(policy, failure(57), PREEMPTED, failure(57), failure(57))
    assert found[-1].code == REPEATED


@pytest.mark.parametrize(
    ("reached", "text"),
    [(0, "before its first step was complete"), (None, "could not be started")],
)
def test_a_job_that_never_begins_is_given_up(reached, text):
    found = decisions(Policy(restarts=10), *[failure(reached)] * 3)
    assert found[-1].code == REPEATED and text in found[-1].counted


def test_waits_double_up_to_the_longest_and_begin_anew_with_progress():
    policy = Policy(restarts=99, repeats=0, wait=2.0, longest_wait=10.0)
    steps = (None, 0, 0, 0, 0, 40, 30, 41)
    found = decisions(policy, *map(failure, steps))
    assert [one.wait for one in found] == [2, 2, 4, 8, 10, 2, 4, 2]
    many = decisions(Policy(restarts=5000, repeats=0), *[failure(0)] * 5000)
    assert max(one.wait for one in many) == 60.0


def test_no_wait_where_none_is_wanted():
    assert decisions(Policy(restarts=1, wait=0.0), failure(1))[0].wait == 0.0
