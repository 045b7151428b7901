"""The watchdog, with a thread that blocks in a made-up call."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from tfdist.coordination.interrupt import raise_in_main_thread
from tfdist.coordination.limits import Limits
from tfdist.coordination.watchdog import (
    EXIT_CODE,
    Watchdog,
    compute_seconds,
    tensorflow_call,
)
from tfdist.errors import RankMismatchError

LIMITS = Limits(tick=0.05, verdict=0.3, leave=3.0)
ERROR = RankMismatchError("rank 0: evaluate; rank 1: fit")


def quick_execute(released):
    """Stands for the call into C++: nothing interrupts it until it returns."""
    released.wait(20.0)


def stub_call(frame):
    """The innermost frames belong to Event.wait; the stub is below them."""
    names = []
    while frame is not None and len(names) < 3:
        names.append(frame.f_code.co_name)
        frame = frame.f_back
    return names[0] == "wait" and "quick_execute" in names


class Watched:
    """The main thread, watched, and an event that ends its `quick_execute`."""

    def __init__(self, failure=None):
        self.released = threading.Event()
        self.pulses = []
        self.unblocked = 0
        self.watchdog = Watchdog(
            1, LIMITS, self.pulses.append, lambda: failure, self._unblock, stub_call
        )

    def _unblock(self):
        self.unblocked += 1
        self.released.set()

    def block(self, then=None):
        """Enters the call; what follows it is some ordinary Python."""
        quick_execute(self.released)
        if then is not None:
            then()
        for _ in range(1000):
            time.sleep(0.001)


@pytest.fixture
def watched():
    made = []

    def watched(failure=None):
        made.append(Watched(failure))
        return made[-1]

    yield watched
    for one in made:
        one.watchdog.stop()
    assert not any(t.name.startswith("tfdist") for t in threading.enumerate())


def test_a_blocked_call_is_seen_and_without_a_verdict_left_alone(watched):
    main = watched()
    threading.Timer(1.0, main.released.set).start()
    main.block()
    assert 0.7 < max(pulse.blocked for pulse in main.pulses) < 1.5
    assert {pulse.calls for pulse in main.pulses if pulse.blocked} == {1}
    assert main.pulses[-1].blocked == 0.0
    assert main.unblocked == 0


def test_a_verdict_becomes_the_error_of_the_blocked_call(watched):
    main = watched(ERROR)
    begin = time.monotonic()
    with pytest.raises(RankMismatchError) as caught:
        main.block()
    assert caught.value is ERROR
    assert main.unblocked == 1
    assert LIMITS.verdict <= time.monotonic() - begin < 5.0


def test_the_verdict_takes_the_place_of_the_error_from_cpp(watched):
    def fail():
        try:
            raise OSError("Horovod has been shut down")
        except OSError as error:
            raise ValueError("wrapped once more") from error

    with pytest.raises(RankMismatchError):
        watched(ERROR).block(then=fail)


@pytest.mark.parametrize(
    ("file", "rounds"),
    [("/v/tensorflow/python/framework/errors_impl.py", 50), ("/v/train.py", 0)],
)
def test_the_verdict_waits_until_tensorflow_has_built_its_error(file, rounds):
    inside = []

    def build_error():
        raise_in_main_thread(ERROR)
        for _ in range(50):
            inside.append(time.sleep(0.001))

    build_error.__code__ = build_error.__code__.replace(co_filename=file)
    with pytest.raises(RankMismatchError):
        build_error()
        time.sleep(1.0)
    assert len(inside) == rounds


def test_stopping_waits_for_an_unblock_that_still_runs(watched):
    main = watched(ERROR)
    returned = []

    def slowly():
        main.released.set()
        time.sleep(0.5)
        returned.append(True)

    main.watchdog._unblock = slowly
    with pytest.raises(RankMismatchError):
        main.block()
    assert not returned
    main.watchdog.stop()
    assert returned


def test_a_call_that_ends_by_itself_is_not_unblocked(watched):
    main = watched(ERROR)

    def failure():  # asked for just before the abort: another rank frees this one
        threading.Timer(0.02, main.released.set).start()
        return ERROR

    main.watchdog._failure = failure
    with pytest.raises(RankMismatchError):
        main.block()
    main.watchdog.stop()
    assert main.unblocked == 0


def test_calls_one_after_the_other_are_not_one_call(watched):
    main = watched(ERROR)
    for _ in range(10):
        released = threading.Event()
        timer = threading.Timer(0.1, released.set)
        timer.start()
        quick_execute(released)
        timer.join()
    assert max(pulse.blocked for pulse in main.pulses) < LIMITS.verdict
    assert main.pulses[-1].calls > 3
    assert main.unblocked == 0


def run(code):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[2],
    )


STUCK = """
    import threading, time
    from tfdist.coordination.limits import Limits
    from tfdist.coordination.watchdog import Watchdog
    from tfdist.errors import StallError

    def unblock():
        {unblock}

    released = threading.Lock()
    released.acquire()

    def quick_execute():
        released.acquire()  # no signal and no exception ends this one

    Watchdog(3, Limits(tick=0.05, verdict=0.2, leave=0.5), lambda pulse: None,
             lambda: StallError("silent ranks: 1"), unblock,
             lambda frame: frame.f_code.co_name == "quick_execute")
    quick_execute()
    time.sleep(5)
    print("not reached")
"""


def test_a_process_that_cannot_be_freed_says_why_and_exits():
    ran = run(STUCK.format(unblock="time.sleep(60)"))
    assert ran.returncode == EXIT_CODE
    assert "rank 3: StallError: silent ranks: 1" in ran.stderr
    assert "in quick_execute" in ran.stderr  # where it was
    assert ran.stdout == ""


def test_the_same_process_freed_ends_with_the_error():
    ran = run(STUCK.format(unblock="released.release()"))
    assert ran.returncode == 1
    last = ran.stderr.strip().splitlines()[-1]
    assert last == "tfdist.errors.StallError: silent ranks: 1"
    assert ran.stdout == ""


class Frame:
    """A stack, outermost first, as the predicate sees it."""

    def __new__(cls, *calls):
        from types import SimpleNamespace

        frame = None
        for filename, name in calls:
            code = SimpleNamespace(co_filename=filename, co_name=name)
            frame = SimpleNamespace(f_code=code, f_back=frame)
        return frame


TF = "/v/site-packages/tensorflow/python/"
HOROVOD = "/v/site-packages/horovod/tensorflow/mpi_ops.py"


@pytest.mark.parametrize(
    ("stack", "expected"),
    [
        ([("train.py", "main"), (TF + "eager/execute.py", "quick_execute")], True),
        ([(HOROVOD, "_allreduce"), ("<string>", "horovod_allreduce")], True),
        ([("train.py", "main"), ("<string>", "generated")], False),
        ([(TF + "ops/gen_dataset_ops.py", "iterator_get_next")], False),
        ([(TF + "lib/io/file_io.py", "write")], False),
        ([(TF + "eager/execute.py", "make_shape")], False),
        (
            [
                (TF + "checkpoint/checkpoint.py", "save"),
                (TF + "eager/execute.py", "quick_execute"),
            ],
            False,
        ),
    ],
)
def test_what_counts_as_a_call_into_tensorflow(stack, expected):
    assert tensorflow_call(Frame(*stack)) is expected


def test_a_real_tf_function_is_seen_and_seen_to_compute():
    ran = run("""
        import time
        from tfdist.coordination.limits import Limits
        from tfdist.coordination.watchdog import Watchdog
        import tensorflow as tf

        @tf.function(autograph=False)  # which would want to read a source file
        def busy(until):
            return tf.while_loop(
                lambda rounds: tf.timestamp() < until, lambda rounds: [rounds + 1], [0]
            )

        busy(tf.constant(0.0, tf.float64))  # traced: the next call only executes
        pulses = []
        watchdog = Watchdog(0, Limits(tick=0.1), pulses.append, lambda: None)
        busy(tf.constant(time.time() + 2.0, tf.float64))
        time.sleep(0.3)
        watchdog.stop()
        longest = max(pulses, key=lambda pulse: pulse.blocked)
        print(longest.blocked > 1.0, longest.idle < 0.8, pulses[-1].blocked)
    """)
    assert ran.stdout == "True True 0.0\n", ran.stderr


def test_computation_is_seen():
    before = compute_seconds()
    end = time.process_time() + 0.3
    while time.process_time() < end:
        sum(range(1000))
    assert compute_seconds() - before >= 0.2
