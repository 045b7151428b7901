"""Agreement between ranks that are threads of one process."""

from __future__ import annotations

import queue
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

from tfdist.coordination import ledger as ledger_module
from tfdist.coordination.ledger import NullLedger, start
from tfdist.coordination.limits import Limits
from tfdist.errors import (
    RankLostError,
    RankMismatchError,
    StallError,
    TfdistError,
)

LIMITS = Limits(tick=0.05, settle=0.5)


class Broadcast:
    """Rank 0's bytes for everyone, among the threads of this process."""

    def __init__(self, size):
        self._size = size
        self._offers = queue.Queue()

    def __call__(self, payload):
        if payload:
            for _ in range(self._size - 1):
                self._offers.put(payload)
            return payload
        return self._offers.get(timeout=20.0)


def on_every_rank(size, work):
    """Returns what `work(rank)` returned, or raised, on each rank."""

    def outcome(rank):
        try:
            return work(rank)
        except Exception as error:
            return error

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(outcome, range(size)))


@pytest.fixture
def job():
    """Makes the ledgers of a job; closes them, and looks for what they leave."""
    before = set(threading.enumerate())
    made = []

    def job(size, **options):
        options = {"bind_address": "127.0.0.1", "limits": LIMITS} | options
        broadcast = Broadcast(size)
        ledgers = on_every_rank(
            size, lambda rank: start(rank, size, broadcast, **options)
        )
        made.extend(ledgers)
        return ledgers

    yield job
    on_every_rank(len(made), lambda rank: made[rank].close()) if made else None
    assert set(threading.enumerate()) == before


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_that_agree(job, size):
    ledgers = job(size)

    def work(rank):
        for step in range(20):
            ledgers[rank].agree(f"step {step}", {"shape": "(8, 6)", "rows": 4})
        return ledgers[rank].failure()

    assert on_every_rank(size, work) == [None] * size


def test_they_find_each_other_without_a_bind_address(job):
    ledgers = job(2, bind_address=None)
    assert on_every_rank(2, lambda rank: ledgers[rank].agree("fit")) == [None, None]


def test_nobody_goes_on_before_the_slowest(job):
    ledgers = job(2)
    arrived = []

    def work(rank):
        time.sleep(0.5 * rank)
        arrived.append(rank)
        ledgers[rank].agree("barrier")
        return len(arrived)

    assert on_every_rank(2, work) == [2, 2]


def test_different_work_is_an_error_on_every_rank(job):
    ledgers = job(3)
    begin = time.monotonic()
    raised = on_every_rank(
        3, lambda rank: ledgers[rank].agree("evaluate" if rank == 0 else "fit")
    )
    assert time.monotonic() - begin < 5.0
    for rank, error in enumerate(raised):
        assert type(error) is RankMismatchError
        assert "rank 0: evaluate; ranks 1,2: fit" in str(error)
        assert type(ledgers[rank].failure()) is RankMismatchError


def test_different_details_are_shown(job):
    ledgers = job(3)
    same = {f"trainable variable {number}": "(3,) float32" for number in range(2000)}

    def work(rank):
        width = 7 if rank == 1 else 6
        details = same | {"trainable variable 3": f"(8, {width}) float32"}
        ledgers[rank].agree("fit", details)

    expected = (
        "details['trainable variable 3']: "
        "ranks 0,2: (8, 6) float32; rank 1: (8, 7) float32"
    )
    for error in on_every_rank(3, work):
        assert type(error) is RankMismatchError
        assert expected in str(error)
        assert "variable 4" not in str(error)


def test_numbers_and_order_of_details_do_not_matter_but_values_do(job):
    ledgers = job(2)
    details = [{"steps": 3, "rows": 4}, {"rows": 4, "steps": 3}]
    assert on_every_rank(2, lambda r: ledgers[r].agree("fit", details[r])) == [None] * 2
    raised = on_every_rank(2, lambda rank: ledgers[rank].agree("fit", {"steps": rank}))
    assert "details['steps']: rank 0: 0; rank 1: 1" in str(raised[0])


def test_a_rank_that_comes_later_gets_the_same_error(job):
    ledgers = job(3)
    raised = on_every_rank(
        2, lambda rank: ledgers[rank].agree("evaluate" if rank else "fit")
    )
    with pytest.raises(
        RankMismatchError, match="rank 0: fit; rank 1: evaluate"
    ) as late:
        ledgers[2].agree("fit")
    assert str(late.value) == str(raised[0])


def test_a_rank_that_has_ended(job):
    ledgers = job(3)
    ledgers[2].activity("fit step 30")
    time.sleep(0.3)
    ledgers[2].close()
    for error in on_every_rank(2, lambda rank: ledgers[rank].agree("evaluate")):
        assert type(error) is RankLostError
        assert "rank 2 has ended, its last activity was 'fit step 30'" in str(error)


def test_rank_0_that_has_ended(job):
    ledgers = job(3)
    ledgers[0].activity("saving")
    time.sleep(0.3)
    ledgers[0].close()
    for error in on_every_rank(2, lambda rank: ledgers[rank + 1].agree("evaluate")):
        assert type(error) is RankLostError
        assert "ank 0 has ended, its last activity was 'saving'" in str(error)


def test_a_silent_rank(job):
    ledgers = job(3)
    ledgers[1].activity("reading data")
    time.sleep(0.3)
    begin = time.monotonic()
    raised = on_every_rank(
        2, lambda index: ledgers[2 * index].agree("fit", timeout=1.0)
    )
    assert 1.0 <= time.monotonic() - begin < 3.0
    for error in raised:
        assert type(error) is StallError
        assert "ranks 0,2 wait to start 'fit'" in str(error)
        assert "rank 1: last did 'reading data'" in str(error)


@pytest.mark.parametrize(("stall", "expected"), [(10.0, 300.0), (900.0, 900.0)])
def test_an_agreement_waits_no_shorter_than_a_stall(job, monkeypatch, stall, expected):
    ledgers = job(2, stall_timeout=stall)
    posted, post = [], ledgers[0]._link.post

    def record(entry, message, texts):
        posted.append(message["timeout"])
        post(entry, message, texts)

    monkeypatch.setattr(ledgers[0]._link, "post", record)
    for timeout in (None, 5.0):
        agreed = on_every_rank(
            2, lambda rank, timeout=timeout: ledgers[rank].agree("fit", timeout=timeout)
        )
        assert agreed == [None, None]
    assert posted == [expected, 5.0]


def test_why_a_collective_failed(job):
    ledgers = job(3)
    assert ledgers[0].diagnose(wait=0.1) is None
    ledgers[1].close()
    error = ledgers[0].diagnose()
    assert type(error) is RankLostError
    assert "rank 1 has ended" in str(error)
    assert ledgers[0].failure() is None  # an end by itself is no failure
    for rank in (0, 2):
        with pytest.raises(RankLostError) as caught:
            ledgers[rank].agree("fit")
        assert "HINT: Look at that rank's own output" in str(caught.value)
        assert str(ledgers[rank].diagnose()) == str(caught.value)


def test_every_raise_is_a_fresh_instance(job):
    ledgers = job(2)
    on_every_rank(2, lambda rank: ledgers[rank].agree(str(rank)))
    assert ledgers[0].failure() is not ledgers[0].failure()


def test_closing_is_quick_repeatable_and_final(job):
    ledgers = job(2)
    begin = time.monotonic()
    for ledger in (*ledgers, *ledgers):
        ledger.close()
    assert time.monotonic() - begin < 2.0
    with pytest.raises(TfdistError):
        ledgers[0].agree("fit")


def test_nothing_is_left_open(job):
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        for ledger in job(2):
            ledger.close()
        import gc

        gc.collect()
    names = [thread.name for thread in threading.enumerate()]
    assert not any(name.startswith("tfdist") for name in names)


def test_rank_0_that_cannot_listen_tells_everybody():
    broadcast = Broadcast(2)
    raised = on_every_rank(
        2, lambda rank: start(rank, 2, broadcast, bind_address="192.0.2.1")
    )
    for error in raised:
        assert type(error) is TfdistError
        assert "192.0.2.1" in str(error)
        assert "HINT: Pass a bind_address" in str(error)


def test_a_failed_broadcast_leaves_nothing_behind():
    before = set(threading.enumerate())

    def broken(payload):
        raise OSError("no network")

    with pytest.raises(OSError, match="no network"):
        start(0, 2, broken, bind_address="127.0.0.1")
    assert set(threading.enumerate()) == before


def test_one_process_has_a_null_object_that_checks_the_same_arguments():
    def never(payload):
        raise AssertionError("one process broadcasts nothing")

    ledger = start(0, 1, never)
    assert type(ledger) is NullLedger
    ledger.agree("fit", {"a": 1}, timeout=0.0)
    ledger.activity("fit")
    assert ledger.failure() is None
    assert ledger.diagnose() is None
    with pytest.raises(TypeError, match="details must map str to str or int"):
        ledger.agree("fit", {"shape": (1, 2)})
    ledger.close()


@pytest.mark.parametrize("size", [1, 2])
def test_wrong_arguments(job, size):
    (ledger, *_) = job(size)
    with pytest.raises(TypeError, match="what must be a str"):
        ledger.agree(3)
    with pytest.raises(TypeError, match="HINT: Pass str"):
        ledger.agree("fit", {"loss": 0.5})
    with pytest.raises(TypeError, match="details must map"):
        ledger.agree("fit", {1: "x"})


def test_a_rank_out_of_range():
    with pytest.raises(ValueError, match="rank=2, size=2"):
        start(2, 2, Broadcast(2))


def test_an_offer_carries_what_is_needed_and_nothing_else(job, monkeypatch):
    offers = []
    original = ledger_module.json.loads
    monkeypatch.setattr(
        ledger_module.json, "loads", lambda text: offers.append(text) or original(text)
    )
    job(2)
    monkeypatch.undo()
    assert any(set(original(o)) == {"port", "token", "addresses"} for o in offers)
    tokens = {original(offer)["token"] for offer in offers if b"token" in offer}
    assert len(tokens) == 1
    assert len(bytes.fromhex(tokens.pop())) == 32


@pytest.mark.parametrize("asking", [[0], [1], [0, 1, 2]])
def test_all_ranks_stop_after_the_same_look(job, asking):
    ledgers = job(3)

    def work(rank):
        for step in range(200):
            ledgers[rank].agree(f"step {step}")  # as the collectives of a step
            if ledgers[rank].look(stop=rank in asking and step >= 5):
                return step

    found = on_every_rank(3, work)
    assert len(set(found)) == 1 and found[0] >= 5, found


def test_a_rank_that_looks_no_more_does_not_hold_the_others(job):
    ledgers = job(2)
    assert not ledgers[0].look(stop=False)
    ledgers[1].look(stop=True)  # and then it trains no more, and answers all the same
    on_every_rank(2, lambda rank: ledgers[rank].agree("go on"))
    assert [ledgers[0].look(False), ledgers[0].look(False)][-1]


def test_a_rank_alone_stops_when_it_wants():
    assert [NullLedger().look(False), NullLedger().look(True)] == [False, True]
