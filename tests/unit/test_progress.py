"""What a process tells of its steps, and when another one is expected."""

import os

import pytest

from tfdist.coordination import progress
from tfdist.coordination.progress import Progress, counted, create, read


@pytest.fixture
def record():
    descriptor = create()
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def watched(record):
    return Progress(record)


def seen(record) -> tuple[int, bool]:
    reading = read(record)
    return reading.steps, reading.expected


def test_the_clock_starts_with_the_first_step_and_stops_with_the_phase(watched, record):
    assert seen(record) == (0, False)
    with watched.phase(single_step=False):
        assert seen(record) == (0, False)  # tracing may take long
        watched.step()
        assert seen(record) == (1, True)
        with watched.phase(single_step=False):  # validation
            watched.step()
        assert seen(record) == (2, True)
    assert seen(record) == (2, False)


def test_the_first_single_step_may_take_long(watched, record):
    with watched.phase(single_step=True):
        assert seen(record) == (0, False)
    assert seen(record) == (1, False)
    with watched.phase(single_step=True):
        assert seen(record) == (1, True)
    assert seen(record) == (2, False)


def test_a_loop_of_ones_own_is_seen_by_its_calls(watched, record):
    watched.note_call(1, 5.0, 5.0)
    assert seen(record) == (0, False)  # not a loop: the script only uses TensorFlow
    watched.enter_loop()
    watched.note_call(2, 0.5, 0.5)
    assert seen(record) == (1, True)
    watched.note_call(2, 30.0, 30.0)
    assert seen(record) == (1, True)  # blocked in the same call
    watched.note_call(2, 31.0, 0.1)
    assert seen(record) == (2, True)  # long, but it computes
    watched.note_call(2, 0.0, 0.0)
    assert seen(record) == (2, False)  # Python of its own
    with watched.phase(single_step=False):
        watched.note_call(9, 1.0, 1.0)
    assert seen(record) == (2, False)  # Keras counts there


def test_a_counted_method_keeps_its_arguments_and_result(watched, record):
    method = counted(lambda *args, **kwargs: (args, kwargs), watched)
    assert method(1, logs=None) == ((1,), {"logs": None})
    assert seen(record)[0] == 1


def test_nobody_watches_by_default():
    assert progress.installed() is None
    with progress.phase(single_step=False):
        pass
    progress.reach(3)


def test_the_step_reached_is_the_scripts_own_count(watched, record):
    with watched.phase(single_step=False):
        watched.step()
        assert read(record).reached == 1  # not told: it begins anew
        watched.reach(120)
        assert read(record).reached == 120 and seen(record) == (1, True)
        watched.step()
        assert read(record).reached == 120
    watched.reach(121)
    assert read(record).reached == 121 and seen(record) == (2, False)
