"""The judgement without sockets and with a clock of its own."""

from __future__ import annotations

import pytest

from tfdist.coordination.judge import Judge
from tfdist.coordination.limits import Limits
from tfdist.coordination.wire import MAX_LINE, WireError, encode

LIMITS = Limits(settle=2.0, disagreement=15.0, stall=600.0)


class Court:
    """A judge, its clock, and everything it said."""

    def __init__(self, size=2, connected=None):
        self.now = 100.0
        self.judge = Judge(size, LIMITS, self.now)
        self.said = []
        for rank in range(size) if connected is None else connected:
            self.judge.join(rank, self.now)

    def hear(self, rank, **message):
        self.judge.receive(rank, message, self.now)
        self.said += self.judge.take_outbox()

    def post(self, rank, what="fit", digest="same", entry=0, timeout=300.0):
        self.hear(rank, post=entry, what=what, digest=digest, timeout=timeout)

    def pulse(self, rank, activity="fit step 14", calls=1, blocked=0.0, idle=None):
        idle = blocked if idle is None else idle
        self.hear(rank, activity=activity, calls=calls, blocked=blocked, idle=idle)

    def leave(self, rank):
        self.judge.leave(rank, self.now)
        self.said += self.judge.take_outbox()

    def wait(self, seconds):
        self.now += seconds
        self.judge.tick(self.now)
        self.said += self.judge.take_outbox()

    @property
    def agreed(self):
        return [message["agreed"] for _, message in self.said if "agreed" in message]

    @property
    def verdict(self):
        return self.judge.verdict and (
            self.judge.verdict["verdict"],
            self.judge.verdict["text"],
        )


def test_an_entry_is_agreed_when_all_have_posted_it():
    court = Court(3)
    court.post(0)
    court.post(2)
    assert court.agreed == []
    court.post(1)
    assert court.agreed == [0]
    for rank in range(3):
        court.post(rank, "evaluate", entry=1)
    assert court.agreed == [0, 1]
    assert court.verdict is None


def test_different_entries_name_the_ranks():
    court = Court(3)
    court.post(0, "evaluate")
    court.post(1, "fit")
    assert court.verdict is None  # rank 2 may still show its version
    court.post(2, "evaluate")
    kind, text = court.verdict
    assert kind == "RankMismatchError"
    assert "ranks 0,2: evaluate; rank 1: fit" in text
    assert (None, court.judge.verdict) in court.said  # everybody is told


def test_a_mismatch_waits_only_a_moment_for_the_others():
    court = Court(3)
    court.post(0, "evaluate")
    court.post(1, "fit")
    court.wait(1.9)
    assert court.verdict is None
    court.wait(0.2)
    assert "rank 0: evaluate; rank 1: fit" in court.verdict[1]


def test_different_details_are_fetched_from_one_rank_of_each_version():
    court = Court(4)
    for rank, digest in enumerate(("a", "a", "b", "a")):
        court.post(rank, digest=digest)
    asked = [rank for rank, message in court.said if "tell" in message]
    assert asked == [0, 2]
    court.hear(0, details=0, part={"variable 3": "(8, 6)", "same": "1"}, last=True)
    court.hear(2, details=0, part={"variable 3": "(8, 7)"}, last=False)
    assert court.verdict is None
    court.hear(2, details=0, part={"same": "1"}, last=True)
    kind, text = court.verdict
    assert kind == "RankMismatchError"
    assert "details['variable 3']: ranks 0,1,3: (8, 6); rank 2: (8, 7)" in text
    assert "same" not in text.partition("HINT")[0]


def test_a_missing_detail_and_many_differences():
    court = Court(2)
    court.post(0, digest="a")
    court.post(1, digest="b")
    court.hear(0, details=0, part={str(n): "x" for n in range(9)}, last=True)
    court.hear(1, details=0, part={}, last=True)
    assert "details['0']: rank 0: x; rank 1: (missing)" in court.verdict[1]
    assert "and 4 more differences" in court.verdict[1]


def test_details_that_never_come_do_not_hold_up_the_verdict():
    court = Court(2)
    court.post(0, digest="a")
    court.post(1, digest="b")
    court.wait(2.1)
    assert court.verdict[0] == "RankMismatchError"
    assert "rank 0: a; rank 1: b" in court.verdict[1]


@pytest.mark.parametrize("announced_first", [True, False])
def test_an_ended_rank_is_missed_by_those_who_wait(announced_first):
    court = Court(2)
    court.pulse(1, "fit step 30")
    steps = [lambda: court.hear(1, bye=True), lambda: court.post(0, "evaluate")]
    for step in steps if announced_first else reversed(steps):
        step()
    kind, text = court.verdict
    assert kind == "RankLostError"
    assert "rank 1 has ended, its last activity was 'fit step 30'" in text
    assert "rank 0 waits to start 'evaluate'" in text


def test_a_normal_end_is_no_failure():
    court = Court(2)
    court.post(0)
    court.post(1)
    court.hear(1, bye=True)
    court.leave(1)
    court.wait(1000.0)
    court.hear(0, bye=True)
    court.leave(0)
    assert court.verdict is None


def test_a_lost_connection_is_a_failure_at_once():
    court = Court(2)
    court.pulse(1, "fit step 3")
    court.leave(1)
    kind, text = court.verdict
    assert kind == "RankLostError"
    assert "Rank 1 was lost" in text
    assert "'fit step 3'" in text


def test_silence_is_a_stall_after_the_timeout():
    court = Court(3, connected=[0, 1])
    court.pulse(1, "loading data")
    court.post(0, timeout=30.0)
    court.wait(29.0)
    assert court.verdict is None
    court.wait(2.0)
    kind, text = court.verdict
    assert kind == "StallError"
    assert "rank 0 waits to start 'fit' for 31 s" in text
    assert "rank 1: last did 'loading data' 31 s ago" in text
    assert "rank 2: last did 'has not connected yet'" in text
    assert "rank 0:" not in text


def test_waiting_alone_for_a_rank_that_is_blocked_elsewhere():
    court = Court(2)
    court.post(0, "evaluate")
    for second in range(1, 16):
        court.wait(1.0)
        court.pulse(1, blocked=float(second))
        assert (court.verdict is None) == (second < 15)
    kind, text = court.verdict
    assert kind == "RankMismatchError"
    assert "rank 0 waits to start 'evaluate' alone, for 15 s" in text
    assert "rank 1 has been inside 'fit step 14' for 15 s" in text


@pytest.mark.parametrize(
    "case", ["computing", "another call each second", "outside", "stopped"]
)
def test_a_rank_that_only_takes_its_time_does_not_disagree(case):
    court = Court(2)
    court.post(0, "evaluate")
    for second in range(1, 40):
        court.wait(1.0)
        if case == "computing":
            court.pulse(1, blocked=float(second), idle=0.5)
        elif case == "another call each second":
            court.pulse(1, calls=second, blocked=1.0)
        elif case == "outside":
            court.pulse(1)
        elif second < 12:  # then nothing more is heard
            court.pulse(1, blocked=float(second))
    assert court.verdict is None


def test_no_progress_of_any_rank_is_a_stall():
    court = Court(2)
    court.pulse(0, "fit step 9", calls=5)
    court.wait(100.0)
    court.pulse(1, "fit step 8", calls=5)
    for second in range(500, 610, 10):
        court.pulse(0, "fit step 9", calls=5, blocked=float(second))
        court.wait(10.0)
    assert court.verdict is None  # rank 1 moved 100 s later
    court.wait(500.0)
    court.pulse(0, "fit step 9", calls=5, blocked=1000.0)
    kind, text = court.verdict
    assert kind == "StallError"
    assert "No rank made progress for 600 s" in text
    assert "rank 1: last did 'fit step 8'" in text
    assert "TFDIST_STALL_TIMEOUT" in text


def test_silence_outside_of_tensorflow_is_no_stall():
    court = Court(2)
    court.pulse(0, blocked=0.0)
    court.wait(10_000.0)
    assert court.verdict is None


def test_the_first_verdict_stays_and_late_ranks_are_told():
    court = Court(3, connected=[0, 1])
    court.leave(1)
    first = court.judge.verdict
    court.leave(0)
    court.judge.join(2, court.now)
    assert court.judge.verdict is first
    assert (2, first) in court.judge.take_outbox()


@pytest.mark.parametrize(
    "message",
    [
        {"post": 0, "what": "fit"},
        {"post": 0, "what": "fit", "digest": "a", "timeout": "soon"},
        {"calls": 1, "blocked": [], "idle": 0},
    ],
)
def test_a_malformed_message_is_refused(message):
    with pytest.raises(WireError, match="malformed"):
        Court().hear(0, **message)


def test_a_verdict_about_very_many_ranks_still_fits_into_a_message():
    court = Court(1000)
    for rank in range(1000):
        court.post(rank, what="\n" * 190 + str(rank))
    assert len(encode(court.judge.verdict)) < MAX_LINE


def test_details_of_a_wrong_kind_are_refused():
    court = Court()
    court.post(0)
    with pytest.raises(WireError, match="malformed"):
        court.hear(0, details=0, part=[1], last=True)
