"""The umpire's decisions, with the clock in the test's hand."""

import pytest

from tfdist.coordination.wire import WireError, encode
from tfdist.testing.umpire import INSIDE, MAX_TEXT, Umpire


@pytest.fixture
def umpire():
    one = Umpire(3, timeout=60.0, grace=10.0)
    for rank in range(3):
        one.join(rank, 0.0)
    return one


def post(umpire, entry, what, now, ranks=(0, 1, 2), code=0):
    for rank in ranks:
        umpire.receive(rank, {"post": entry, "what": what, "code": code}, now)


def fail(umpire, rank, line, now, text="text"):
    failure = {"when": "call", "line": line, "text": text}
    umpire.receive(rank, {"failed": failure}, now)


def told(umpire):
    """Returns what was sent to everybody since the last look."""
    outbox = umpire.take_outbox()
    assert all(rank is None for rank, _ in outbox)
    return [message for _, message in outbox]


def test_an_entry_is_met_when_all_have_come(umpire):
    post(umpire, 0, "start", 1.0, ranks=(0, 2))
    assert told(umpire) == []
    post(umpire, 0, "start", 2.0, ranks=(1,), code=4)
    assert told(umpire) == [{"met": 0, "failures": [], "code": 4}]


def test_the_first_failure_is_told_in_full_and_others_in_a_line(umpire):
    fail(umpire, 2, "cause", 1.0, text="x" * 2 * MAX_TEXT)
    fail(umpire, 0, "consequence\nmore", 1.5)
    post(umpire, 0, "end", 2.0)
    (met,) = told(umpire)
    assert [(f["rank"], f["line"], len(f["text"])) for f in met["failures"]] == [
        (2, "cause", MAX_TEXT),
        (0, "consequence", 0),
    ]
    encode(met)  # fits into one line of the wire
    post(umpire, 1, "next", 3.0)
    assert told(umpire)[0]["failures"] == [], "a failure belongs to one entry"


def test_failures_in_emoji_fit_into_a_line(umpire):
    for _ in range(9):
        fail(umpire, 1, "😀" * 300, 1.0, text="😀" * 2 * MAX_TEXT)
    post(umpire, 0, "end", 2.0)
    (met,) = told(umpire)
    assert len(met["failures"]) == 8
    encode(met)


def test_ranks_out_of_step_are_named(umpire):
    post(umpire, 0, "run a", 1.0, ranks=(0, 1))
    post(umpire, 0, "run b", 1.0, ranks=(2,))
    (end,) = told(umpire)
    assert end["end"] == "the ranks are out of step: ranks 0,1: run a; rank 2: run b"


def test_grace_after_a_failure(umpire):
    post(umpire, 0, INSIDE + "test_a", 0.0)
    fail(umpire, 1, "cause", 20.0)
    post(umpire, 1, "end", 21.0, ranks=(1,))
    told(umpire)
    umpire.tick(29.9)
    assert told(umpire) == []
    umpire.tick(30.1)
    (end,) = told(umpire)
    assert end["end"] == (
        "ranks 0,2 did not end test_a within 10 s after rank 1 had failed"
    )
    assert end["stacks"] is False


def test_time_limit_of_a_test(umpire):
    post(umpire, 0, INSIDE + "test_a", 100.0)
    told(umpire)
    umpire.tick(159.9)
    assert told(umpire) == []
    umpire.tick(160.1)
    (end,) = told(umpire)
    assert end["end"].startswith("ranks 0-2 did not end test_a within 60 s")
    assert end["stacks"] is True


def test_no_limit_between_tests_or_when_it_is_zero(umpire):
    post(umpire, 0, "the end of test_a", 0.0)
    told(umpire)
    umpire.tick(1e6)
    assert told(umpire) == []
    endless = Umpire(2, timeout=0.0, grace=1.0)
    endless.join(0, 0.0)
    endless.tick(1e9)
    assert told(endless) == []


def test_a_lost_rank_ends_the_run_once(umpire):
    post(umpire, 0, INSIDE + "test_a", 0.0)
    told(umpire)
    umpire.leave(1, 5.0)
    umpire.leave(2, 5.1)
    (end,) = told(umpire)
    assert end["end"] == "rank 1 was lost in test_a: its process ended"


def test_leaving_after_the_report_is_no_loss(umpire):
    post(umpire, 0, "the end of the run", 0.0)
    umpire.receive(0, {"over": True}, 1.0)
    assert told(umpire)[-1] == {"over": True}
    umpire.leave(1, 2.0)
    umpire.tick(1e6)
    assert told(umpire) == []


@pytest.mark.parametrize(
    "message", [{"post": 0}, {"failed": 3}, {"post": 0, "what": "a", "code": "x"}]
)
def test_nonsense_is_refused(umpire, message):
    with pytest.raises(WireError):
        umpire.receive(0, message, 1.0)
