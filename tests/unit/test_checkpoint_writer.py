"""Saving in the background: a copy, one in flight, errors that are told."""

import gc
import os
import sys
import threading
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import psutil
import pytest

from tests.recovery.disk import Disk
from tfdist.checkpoint.errors import CheckpointError
from tfdist.checkpoint.local import LocalFileSystem
from tfdist.checkpoint.parts import Part
from tfdist.checkpoint.store import Store
from tfdist.checkpoint.writer import LOWEST, Writer


class Gate(Disk):
    """A disk that stops at the creation of a file of tensors until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()
        self.open_ = threading.Event()
        self.error: OSError | None = None

    def create(self, path):
        if "safetensors" in path:
            self.priority = priority()
            self.reached.set()
            assert self.open_.wait(30)
            if self.error is not None:
                raise self.error
        return super().create(path)


@pytest.fixture
def gate():
    return Gate()


@pytest.fixture
def store(gate):
    store = Store("/run", filesystem=gate, heartbeat=3600.0)
    store.open()
    yield store
    gate.open_.set()
    store.close()


def part(value: float = 1.0) -> Part:
    return Part(
        common={"a": np.full(5, value, np.float32)},
        own={"b": np.full((), value, ml_dtypes.bfloat16)},
        details={"value": [value]},
    )


def priority() -> int:
    """Returns that of this thread."""
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


@pytest.mark.skipif(sys.platform != "linux", reason="threads have none of their own")
def test_training_comes_first(store, gate):
    before = priority()
    writer = Writer(store)
    gate.open_.set()
    writer.submit(1, part())
    writer.close()
    assert (gate.priority, priority()) == (LOWEST, before)


@pytest.mark.failure(15)
def test_what_is_saved_is_what_was_when_it_was_submitted(store, gate):
    writer = Writer(store)
    mine = part(1.0)
    assert writer.submit(1, mine)
    assert gate.reached.wait(30)
    mine.common["a"][:] = 2.0  # the next steps of training
    mine.own["b"][...] = 2.0
    mine.details["value"].append(2.0)
    gate.open_.set()
    writer.close()
    found = store.load(1)
    np.testing.assert_array_equal(found.common["a"], np.full(5, 1.0))
    assert found.ranks[0]["b"] == 1.0
    assert found.manifest.details == {"value": [1.0]}


@pytest.mark.failure(15)
def test_control_without_a_copy_it_would_be_another(store, gate):
    mine = part(1.0)
    thread = threading.Thread(target=store.save, args=(1, mine))
    thread.start()
    assert gate.reached.wait(30)
    mine.common["a"][:] = 2.0
    gate.open_.set()
    thread.join(30)
    assert store.load(1).common["a"][0] == 2.0


@pytest.mark.failure(13)
def test_one_is_in_flight_and_a_second_is_skipped_and_counted(store, gate):
    writer = Writer(store, "skip")
    assert not writer.busy
    assert writer.submit(1, part())
    assert gate.reached.wait(30) and writer.busy
    assert not writer.submit(2, part())
    assert not writer.submit(3, part())
    gate.open_.set()
    writer.wait()
    assert writer.submit(4, part())
    writer.close()
    assert store.steps() == (4, 1)
    assert (writer.counts.saved, writer.counts.skipped) == (2, 2)


@pytest.mark.failure(13)
def test_one_is_in_flight_and_a_second_waits_and_is_counted(store, gate):
    writer = Writer(store)
    writer.submit(1, part())
    assert gate.reached.wait(30)
    timer = threading.Timer(0.1, gate.open_.set)
    timer.start()
    writer.submit(2, part())
    assert gate.open_.is_set()
    writer.close()
    timer.join()
    assert store.steps() == (2, 1)
    assert writer.counts.waited >= 1
    assert writer.counts.waiting_seconds > 0.0


@pytest.mark.failure(14)
@pytest.mark.parametrize("how", ["check", "submit", "wait", "close"])
def test_an_error_in_the_background_is_raised_once(how, store, gate):
    writer = Writer(store)
    gate.error = OSError(28, "No space left on device")
    writer.submit(1, part())
    gate.open_.set()
    writer._thread.join(30)
    call = {"submit": lambda: writer.submit(2, part())}.get(how, getattr(writer, how))
    with pytest.raises(CheckpointError, match="No space left.*\n?HINT: Free space"):
        call()
    writer.check()
    gate.error = None
    writer.submit(3, part())
    writer.close()
    assert store.steps() == (3,)


def test_a_chief_that_waits_for_a_lost_rank_can_give_up(tmp_path: Path):
    store = Store(tmp_path, size=2, timeout=3600.0, heartbeat=3600.0)
    store.open()
    writer = Writer(store)
    writer.submit(1, part())
    started = time.monotonic()
    writer.close(abort=True)
    assert time.monotonic() - started < 30
    assert store.steps() == ()
    store.close()


def test_buffers_are_used_again_and_follow_the_state(store, gate):
    gate.open_.set()
    writer = Writer(store)
    writer.reserve(part())
    before = writer._common["a"]
    writer.submit(1, part())
    writer.wait()
    assert writer._common["a"] is before
    writer.submit(2, Part(common={"a": np.zeros(6, np.float32), "c": np.ones(1)}))
    writer.wait()
    assert set(writer._common) == {"a", "c"} and not writer._own
    writer.close()
    assert not writer._common
    np.testing.assert_array_equal(store.load(2).common["a"], np.zeros(6))


@pytest.mark.failure(13)
def test_memory_grows_by_one_state_at_most(tmp_path: Path):
    """While saves come faster than a slow disk takes them."""

    class Slow(LocalFileSystem):
        def create(self, path):
            time.sleep(0.02)
            return super().create(path)

    size = 64 << 20
    state = Part(common={f"{n}": np.ones(size // 16, np.float32) for n in range(4)})
    store = Store(tmp_path, filesystem=Slow(), keep=1)
    store.open()
    writer = Writer(store)
    gc.collect()
    process = psutil.Process()
    base = process.memory_info().rss
    writer.reserve(state)
    highest = 0
    stop = threading.Event()

    def watch():
        nonlocal highest
        while not stop.wait(0.002):
            highest = max(highest, process.memory_info().rss)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        for step in range(1, 5):
            writer.submit(step, state)
        writer.close()
    finally:
        stop.set()
        watching.join()
        store.close()
    assert highest - base >= size  # the control: the measurement sees the copy
    assert highest - base <= size + (24 << 20)  # and two pieces of 8 MiB that are read


def test_another_policy_is_refused(store):
    with pytest.raises(ValueError, match="'drop'.*'wait' or 'skip'"):
        Writer(store, "drop")
