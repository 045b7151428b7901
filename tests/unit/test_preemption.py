"""Real signals to this process, and what it makes of them."""

import os
import signal
import threading

import pytest

from tfdist.coordination.ledger import NullLedger
from tfdist.coordination.preemption import EXIT_CODE, Preemption

SIGNALS = [signal.SIGTERM, signal.SIGUSR1]


@pytest.fixture
def received():
    """Note the signals that come through to the script's own handlers."""
    received = []
    former = {
        number: signal.signal(number, lambda number, frame: received.append(number))
        for number in SIGNALS
    }
    # A shell's background job inherits a SIGINT that is ignored.
    former[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield received
    for number, handler in former.items():
        signal.signal(number, handler)


@pytest.fixture
def preemption(received):
    preemption = Preemption(NullLedger().look)
    preemption.install()
    yield preemption
    preemption.remove()


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_due_at_the_next_look(preemption, received, number):
    assert not preemption.due()
    send(number)
    assert preemption.due()
    assert received == []


def test_more_signals_do_no_harm(preemption, received):
    for number in (*SIGNALS, *SIGNALS):
        send(number)
    assert preemption.due()
    send(signal.SIGTERM)
    assert preemption.due()
    preemption.remove()
    assert received == []  # it has been served


def test_the_former_handlers_come_back(preemption, received):
    preemption.install()  # twice is once
    preemption.remove()
    preemption.remove()
    send(signal.SIGTERM)
    assert received == [signal.SIGTERM]
    assert not preemption.due()


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_after_the_last_look_is_not_lost(preemption, received, number):
    send(number)
    preemption.remove()
    assert received == [number]


def test_elsewhere_than_in_the_main_thread_it_only_looks(received):
    found = []

    def work():
        preemption = Preemption(lambda wanted: found.append(wanted) or True)
        preemption.install()
        found.append(preemption.due())
        preemption.remove()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False, True]  # others may want to stop
    send(signal.SIGTERM)
    assert received == [signal.SIGTERM]


def test_ctrl_c_stays_what_it_is(preemption):
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert not preemption.due()


def test_the_exit_code_is_that_of_sigterm():
    assert EXIT_CODE == 128 + signal.SIGTERM
