"""Which rank is blamed: the launcher's knowledge, told message by message."""

import base64

import pytest

from tfdist.coordination.wire import WireError
from tfdist.launch.run.child import STACKS, STDERR, STDOUT
from tfdist.launch.run.job import STALLED, Job, Verdict


class Told(Job):
    """A job of three ranks whose messages are short to write."""

    def __init__(self, stall_timeout: float = 10.0):
        self.written: list[tuple] = []
        self.records: list[dict] = []
        super().__init__(
            ["a", "a", "b"],
            stall_timeout,
            lambda *what: self.written.append(what),
            self.records.append,
        )
        for rank in range(3):
            self.join(rank, 0.0)
            self.receive(rank, {"host": f"host{rank}", "pid": 100 + rank}, 0.0)

    def steps(self, now: float, *steps: int, expected: bool = True) -> None:
        for rank, count in enumerate(steps):
            self.receive(rank, {"steps": count, "expected": expected}, now)

    def orders(self) -> list[dict]:
        return [message for rank, message in self.take_outbox() if rank is None]


def test_the_first_exit_code_decides():
    job = Told()
    job.receive(2, {"exit": 3, "time": 1.0}, 1.0)
    assert job.verdict == Verdict(2, 3, "ended with exit code 3")
    assert job.orders() == [{"end": 15}]
    job.receive(0, {"exit": 1, "time": 1.1}, 1.1)
    job.receive(1, {"exit": -15, "time": 1.2}, 1.2)
    assert job.verdict.rank == 2
    assert [(one["rank"], one.get("signal")) for one in job.records] == [
        (2, None),
        (0, None),
        (1, 15),
    ]
    assert job.records[0] == {
        "rank": 2,
        "host": "host2",
        "pid": 102,
        "exit code": 3,
        "time": 1.0,
    }


def test_a_signal_is_128_and_its_number():
    job = Told()
    job.receive(1, {"exit": -9, "time": 1.0}, 1.0)
    assert job.verdict == Verdict(1, 137, "was ended by SIGKILL")


def test_a_failure_counts_from_its_moment_not_from_the_exit():
    job = Told()
    job.receive(1, {"failed": 1}, 1.0)
    job.receive(0, {"failed": 9}, 1.5)
    job.receive(0, {"exit": 9, "time": 2.0}, 2.0)
    assert job.verdict == Verdict(1, 1, "ended with exit code 1")


@pytest.mark.failure(32, 33)
@pytest.mark.parametrize("number", [9, 15, 10])
def test_a_rank_that_was_killed_is_the_cause_of_what_others_say(number):
    job = Told()
    job.receive(1, {"failed": 1}, 1.0)  # its connection to rank 0 is lost
    job.receive(0, {"exit": -number, "time": 1.0}, 1.1)
    assert (job.verdict.rank, job.verdict.code) == (0, 128 + number)


def test_a_rank_that_aborts_is_not():
    """C++ code ends so where another rank is gone."""
    job = Told()
    job.receive(1, {"failed": 3}, 1.0)
    job.receive(0, {"exit": -6, "time": 1.0}, 1.1)
    assert job.verdict == Verdict(1, 3, "ended with exit code 3")


def test_a_failed_rank_that_does_not_end_is_not_waited_for_for_ever():
    job = Told()
    job.receive(1, {"failed": 4}, 1.0)
    job.tick(5.0)
    assert job.verdict is None
    job.tick(7.0)
    assert job.verdict == Verdict(1, 4, "ended with exit code 4")


def test_a_normal_end_is_no_verdict():
    job = Told()
    for rank in range(3):
        assert not job.over
        job.receive(rank, {"exit": 0, "time": 1.0}, 1.0)
        job.receive(rank, {"closed": True}, 1.0)
    assert job.over and job.verdict is None and not job.orders()


def test_a_lost_wrapper_is_blamed_but_not_one_that_said_farewell():
    job = Told()
    job.receive(0, {"exit": 0, "time": 1.0}, 1.0)
    job.receive(0, {"closed": True}, 1.0)
    job.leave(0, 2.0)
    assert job.verdict is None
    job.leave(1, 3.0)
    assert job.verdict.rank == 1 and job.verdict.code == 1
    assert "was lost" in job.verdict.what


def pass_time(job: Job, until: float, *heard: int) -> None:
    """Let the seconds pass in which only some ranks are heard."""
    for second in range(1, int(until) + 1):
        for rank in heard:
            job.receive(rank, {"steps": 1, "expected": True}, float(second))
        job.tick(float(second))


def stay(job: Job, since: int, until: int) -> None:
    """Let the seconds pass in which all ranks are heard and have no news."""
    for second in range(since, until + 1):
        for rank in range(3):
            job.receive(rank, {}, float(second))


def test_a_silent_host_is_the_cause_of_its_peers_failure():
    job = Told()
    pass_time(job, 9.0, 0, 2)
    job.receive(0, {"exit": 1, "time": 10.0}, 10.0)
    assert job.verdict.rank == 1 and job.verdict.code == 1
    assert "does not answer" in job.verdict.what


def test_a_host_that_stays_silent_is_lost_though_nobody_fails():
    job = Told(stall_timeout=0.0)
    pass_time(job, 12.0, 0, 2)
    assert job.verdict is None
    pass_time(job, 13.0, 0, 2)
    assert job.verdict.rank == 1 and "does not answer" in job.verdict.what
    for rank in (0, 2):
        job.receive(rank, {"exit": -15, "time": 1.0}, 14.0)
        assert not job.over
        job.receive(rank, {"closed": True}, 14.0)
    assert job.over  # the lost one is not waited for


@pytest.mark.parametrize("timeout", [0.0, 30.0])
def test_nobody_is_blamed_for_the_launchers_own_pause(timeout):
    job = Told(timeout)
    pass_time(job, 3.0, 0, 1, 2)
    job.receive(0, {"steps": 1, "expected": True}, 100.0)
    job.tick(100.2)
    assert job.verdict is None and not job.over and not job.orders()


def test_who_stands_still_after_the_launchers_pause_is_found():
    job = Told(30.0)
    pass_time(job, 3.0, 0, 1, 2)
    stay(job, 101, 131)
    assert not job.orders()
    stay(job, 132, 132)
    assert job.orders() == [{"stacks": True}]


def test_the_verdict_knows_the_last_complete_step():
    job = Told()
    job.receive(1, {"steps": 7, "expected": True, "reached": 127}, 1.0)
    job.receive(0, {"steps": 9, "expected": True, "reached": 129}, 1.0)
    exit_ = {"exit": -9, "time": 1.0, "steps": 8, "expected": True, "reached": 128}
    job.receive(1, exit_, 2.0)
    assert job.verdict == Verdict(1, 137, "was ended by SIGKILL", 128)


def test_what_follows_an_order_is_nobodys_fault():
    job = Told()
    job.ask({"end": 2})
    job.tick(1.0)
    assert job.orders() == [{"end": 2}]
    job.receive(1, {"exit": 1, "time": 2.0}, 2.0)
    job.receive(0, {"failed": 1}, 2.0)
    job.leave(2, 3.0)
    job.tick(100.0)
    assert job.verdict is None


def test_a_late_rank_is_told_the_order():
    job = Job(["a", "b"], 0.0, lambda *what: None, lambda record: None)
    job.join(0, 0.0)
    job.ask({"end": 15})
    job.tick(0.0)
    job.take_outbox()
    job.join(1, 1.0)
    assert job.take_outbox() == [(1, {"end": 15})]


def test_only_rank_0_is_shown_and_only_until_another_fails():
    job = Told()
    text = base64.b64encode(b"x").decode()
    for rank, kind in ((0, STDOUT), (0, STDERR), (1, STDOUT), (0, STACKS)):
        job.receive(rank, {"out": text, "to": kind}, 0.0)
    job.receive(1, {"failed": 1}, 1.0)
    job.receive(0, {"out": text, "to": STDERR}, 1.1)
    assert job.written == [
        (0, STDOUT, b"x", True),
        (0, STDERR, b"x", True),
        (1, STDOUT, b"x", False),
        (0, STACKS, b"x", True),  # whether stacks are shown, the logs decide
        (0, STDERR, b"x", False),
    ]


def stand_still(job: Job) -> None:
    """All ranks make five steps and no more; the stacks are asked for."""
    job.steps(1.0, 5, 5, 5)
    stay(job, 2, 11)
    assert not job.orders()
    job.tick(11.1)
    assert job.orders() == [{"stacks": True}]
    job.tick(12.0)
    assert job.verdict is None and not job.orders()  # asked once


def test_a_stopped_rank_is_guilty_not_those_that_wait():
    job = Told()
    stand_still(job)
    job.receive(0, {"state": "S", "waiting": True}, 12.0)
    job.receive(1, {"state": "T", "waiting": True}, 12.0)
    job.receive(2, {"state": "S", "waiting": False}, 12.0)
    assert job.verdict.rank == 1 and job.verdict.code == STALLED
    assert "stopped (SIGSTOP)" in job.verdict.what
    assert job.orders() == [{"end": 15}]


def test_a_rank_outside_of_the_collective_is_guilty():
    job = Told()
    stand_still(job)
    for rank in range(3):
        job.receive(rank, {"state": "S", "waiting": rank != 2}, 12.0)
    assert job.verdict.rank == 2
    assert "the other ranks wait for it" in job.verdict.what


def test_a_silent_wrapper_is_guilty_after_a_while():
    job = Told()
    stand_still(job)
    job.receive(0, {"state": "S", "waiting": True}, 12.0)
    job.receive(1, {"state": "S", "waiting": True}, 12.0)
    assert job.verdict is None
    job.tick(17.0)
    assert job.verdict.rank == 2 and "does not answer" in job.verdict.what


def test_ranks_that_end_when_they_are_asked_are_not_blamed():
    """The question wakes a stopped rank; if it then ends well, all is well."""
    job = Told()
    stand_still(job)
    for rank in range(3):
        job.receive(rank, {"exit": 0, "time": 1.0}, 12.0)
        job.receive(rank, {"closed": True}, 12.0)
    job.tick(30.0)
    assert job.verdict is None and job.over


def test_where_all_stand_still_all_are_named():
    job = Told()
    stand_still(job)
    for rank in range(3):
        job.receive(rank, {"state": "S", "waiting": True}, 12.0)
    assert job.verdict.rank == 0
    assert "(as do ranks 1,2)" in job.verdict.what
    assert "all stand still" in job.verdict.what


def test_a_lone_rank_can_stand_still_too():
    job = Job(["a"], 1.0, lambda *what: None, lambda record: None)
    job.join(0, 0.0)
    job.receive(0, {"steps": 1, "expected": True}, 0.0)
    job.tick(2.0)
    job.receive(0, {"state": "S", "waiting": False}, 2.0)
    assert "its step does not end" in job.verdict.what


def test_what_ranks_say_while_they_are_ended_is_shown():
    job = Told()
    job.ask({"end": 2})
    job.tick(0.0)
    job.receive(1, {"failed": 130}, 1.0)
    job.receive(0, {"out": base64.b64encode(b"saved").decode(), "to": STDOUT}, 1.1)
    assert job.written == [(0, STDOUT, b"saved", True)]


@pytest.mark.parametrize("timeout", [10.0, 0.0])
def test_no_stall_without_an_expected_step_or_a_limit(timeout):
    job = Told(timeout)
    job.steps(1.0, 5, 5, 5, expected=timeout == 0.0)
    stay(job, 2, 1000)
    assert not job.orders() and job.verdict is None


def test_steps_keep_the_clock_from_running_out():
    job = Told()
    for second in range(0, 50, 5):
        job.steps(float(second), second, second, second)
    job.tick(55.0)
    assert not job.orders()


@pytest.mark.parametrize(
    "message", [{"exit": "x"}, {"out": 3, "to": 1}, {"steps": 1}, {"failed": None}]
)
def test_nonsense_is_refused(message):
    with pytest.raises(WireError, match="malformed"):
        Told().receive(0, message, 0.0)
