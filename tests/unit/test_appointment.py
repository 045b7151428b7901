"""Whatever the order of events, all ranks stop after the same look."""

import random

import pytest

from tfdist.coordination.appointment import Appointment, Looks


class Rank:
    """A rank that trains, and its two connections, whose messages may be late."""

    def __init__(self, looks: Looks) -> None:
        self.looks = looks
        self.number = 0
        self.held = False
        self.stopped = False
        self.sent: list = []
        self.coming: list = []

    def look(self) -> None:
        self.looks.look()
        self.number += 1
        self.held = True
        self.go_on()

    def go_on(self) -> None:
        due = self.looks.due
        self.held = self.held and due is None
        self.stopped = bool(due)

    def hear(self) -> None:
        message = self.coming.pop(0)
        if "ask" in message:
            self.sent.append(self.looks.answer())
        else:
            self.looks.appoint(message["appointed"])
            if self.held:
                self.go_on()


def stops(size: int, signalled: list[int], seed: int, looks=Looks, server=Appointment):
    """Let a job run in random order; return after which look each rank stopped."""
    draw = random.Random(seed)
    ranks = [Rank(looks()) for _ in range(size)]
    judge = server(size)
    signals = list(signalled)
    connected = draw.sample(range(size), draw.randint(1, size))

    def deliver(outbox) -> None:
        for receiver, message in outbox:
            for rank in connected if receiver is None else [receiver]:
                ranks[rank].coming.append(message)

    def serve(rank: Rank) -> None:
        message = rank.sent.pop(0)
        if message == "stop":
            deliver(judge.request())
        else:
            deliver(judge.answer(ranks.index(rank), message))

    def connect(number: int) -> None:
        connected.append(number)
        deliver(judge.join(number))

    for _ in range(10_000):
        slowest = min(rank.number for rank in ranks)
        events = []
        for number, rank in enumerate(ranks):
            if number not in connected:
                events.append((connect, number))
                continue
            # A step of the training is a collective: nobody is two looks ahead.
            waits = rank.held or rank.stopped or rank.number > slowest
            events += [] if waits else [(Rank.look, rank)]
            events += [(serve, rank)] if rank.sent else []
            events += [(Rank.hear, rank)] if rank.coming else []
        if signals and len(connected) == size and draw.random() < 0.2:
            ranks[signals.pop()].sent.append("stop")
        if not events or all(rank.stopped for rank in ranks):
            break
        action, subject = draw.choice(events)
        action(subject)
    return [rank.number if rank.stopped else None for rank in ranks]


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_all_ranks_stop_after_the_same_look(size):
    for seed in range(300):
        signalled = random.Random(seed).choices(range(size), k=1 + seed % 4)
        found = stops(size, signalled, seed)
        assert None not in found, (seed, found)
        assert len(set(found)) == 1, (seed, found)


class NeverWaits(Looks):
    due = property(lambda self: bool(super().due))


class OneTooEarly(Appointment):
    def answer(self, rank, looks):
        return super().answer(rank, looks - 1)


@pytest.mark.parametrize("parts", [{"looks": NeverWaits}, {"server": OneTooEarly}])
def test_the_simulation_sees_a_protocol_that_fails(parts):
    found = [stops(3, [1], seed, **parts) for seed in range(300)]
    assert any(len(set(numbers)) > 1 for numbers in found)


def test_nobody_stops_unasked():
    looks = Looks()
    for _ in range(5):
        looks.look()
    assert looks.due is False


def test_a_rank_in_no_training_yet_is_counted_with_no_looks():
    server, early, late = Appointment(2), Looks(), Looks()
    for _ in range(3):
        early.look()
    assert server.request() == [(None, {"ask": True})]
    assert server.answer(0, early.answer()) == []
    assert server.answer(1, late.answer()) == [(None, {"appointed": 4})]


def test_later_signals_change_nothing():
    server = Appointment(2)
    server.request()
    server.answer(0, 5)
    assert server.request() == []
    assert server.answer(1, 5) == [(None, {"appointed": 6})]
    assert server.request() == [] == server.answer(0, 9)


def test_a_rank_that_has_ended_is_not_waited_for():
    server = Appointment(3)
    server.end(2)
    server.request()
    server.answer(0, 1)
    assert server.answer(1, 2) == [(None, {"appointed": 3})]


def test_a_rank_that_connects_later_is_asked_then():
    server = Appointment(2)
    assert server.join(0) == []
    server.request()
    assert server.join(1) == [(1, {"ask": True})]
