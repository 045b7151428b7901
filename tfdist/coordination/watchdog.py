"""Frees a main thread that waits in C++ for ranks that will never come.

Python cannot interrupt a call into TensorFlow. The watchdog sees from another
thread that the main thread is inside one and the same call, tells the ledger so,
and after a verdict makes the call end and the verdict appear in its place.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType

from tfdist.coordination.interrupt import raise_in_main_thread
from tfdist.coordination.limits import Limits
from tfdist.errors import TfdistError

EXIT_CODE = 70  # EX_SOFTWARE; the process could not be freed in any other way

# Long work of one rank alone: others may wait for it, it waits for nobody.
_LOCAL_WORK = ("/tensorflow/python/checkpoint/", "/tensorflow/python/saved_model/")


@dataclass(frozen=True)
class Pulse:
    """What the watchdog saw in one sample."""

    calls: int  # calls into TensorFlow that were told apart so far
    blocked: float  # seconds inside the present call; 0 outside of one
    idle: float  # seconds of these since TensorFlow last computed anything


def tensorflow_call(frame: FrameType) -> bool:
    """Returns whether a thread with this innermost frame executes TensorFlow ops.

    That is: a tf.function or an eager op (`quick_execute`), or an op of a library
    that was loaded at run time, as Horovod's are (their wrappers are generated,
    hence the file "<string>").
    """
    code = frame.f_code
    if code.co_filename.endswith("tensorflow/python/eager/execute.py"):
        outer: FrameType | None = frame
        while outer is not None:
            if any(part in outer.f_code.co_filename for part in _LOCAL_WORK):
                return False
            outer = outer.f_back
        return code.co_name == "quick_execute"
    caller = frame.f_back
    return (
        code.co_filename == "<string>"
        and caller is not None
        and "/horovod/tensorflow/" in caller.f_code.co_filename
    )


class Watchdog:
    """Samples the main thread from a thread of its own.

    Args:
        rank: Named in the last message before the process is ended.
        limits: The time limits.
        report: Called with every sample.
        failure: Returns the verdict so far, or None.
        unblock: Makes pending collectives of this process fail (Horovod's
            `shutdown`, say); called from a thread of its own, as it may hang.
        is_call: Tells from the innermost frame whether TensorFlow executes.
    """

    def __init__(
        self,
        rank: int,
        limits: Limits,
        report: Callable[[Pulse], None],
        failure: Callable[[], TfdistError | None],
        unblock: Callable[[], object] | None = None,
        is_call: Callable[[FrameType], bool] = tensorflow_call,
    ):
        self._rank = rank
        self._limits = limits
        self._report = report
        self._failure = failure
        self._unblock = unblock
        self._is_call = is_call
        self._main = threading.main_thread().ident or 0
        self._call: FrameType | None = None
        self._calls = 0
        self._since = self._computed = time.monotonic()
        self._compute_seconds = 0.0
        self._unblocking: threading.Thread | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name="tfdist-ledger-watchdog", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; after an abort only when `unblock` has returned, too."""
        self._stopped.set()
        if self._thread is not threading.current_thread():
            self._thread.join(0.4)
        if self._unblocking is not None:
            # Horovod's own farewell at exit hangs while another shutdown runs.
            self._unblocking.join(self._limits.leave)

    def _run(self) -> None:
        while not self._stopped.wait(self._limits.tick):
            pulse = self._sample()
            self._report(pulse)
            if pulse.blocked >= self._limits.verdict:
                failure = self._failure()
                if failure is not None:
                    self._abort(failure)
        self._call = None

    def _sample(self) -> Pulse:
        now = time.monotonic()
        call = self._present_call()
        if call is not self._call:
            self._calls += call is not None
            # Holding the frame makes `is` safe (addresses are used again), but
            # it would also hold the tensors of a call that is over.
            _forget(self._call)
            self._call, self._since, self._computed = call, now, now
        if call is None:
            return Pulse(self._calls, 0.0, 0.0)
        seconds = compute_seconds()
        if seconds > self._compute_seconds + self._limits.tick / 10:
            self._computed = now
        self._compute_seconds = seconds
        return Pulse(self._calls, now - self._since, now - self._computed)

    def _present_call(self) -> FrameType | None:
        frame = _frame_of(self._main)
        return frame if frame is not None and self._is_call(frame) else None

    def _abort(self, error: TfdistError) -> None:
        """Raises `error` in the main thread, or ends the process."""
        aborted = self._call
        raise_in_main_thread(error)
        # Freeing this rank frees the others as well; by then their watchdogs have
        # seen the verdict too, and it takes the place of the error from C++.
        if self._leaves(aborted, 2 * self._limits.tick):
            return
        if self._unblock is not None and self._unblocking is None:
            self._unblocking = threading.Thread(
                target=self._unblock, name="tfdist-ledger-unblock", daemon=True
            )
            self._unblocking.start()
        if not self._leaves(aborted, self._limits.leave):
            self._end_process(error)

    def _leaves(self, call: FrameType | None, seconds: float) -> bool:
        """Waits for the main thread to leave a call; True if it did, or at `stop`."""
        deadline = time.monotonic() + seconds
        while self._present_call() is call and not self._stopped.wait(0.05):
            if time.monotonic() >= deadline:
                return False
        return True

    def _end_process(self, error: TfdistError) -> None:
        stream = sys.__stderr__
        if stream is not None:
            kind = type(error).__name__
            print(
                f"rank {self._rank}: {kind}: {error}\nThe call into TensorFlow "
                "could not be ended; this process exits. Where it was:",
                file=stream,
                flush=True,
            )
            faulthandler.dump_traceback(stream)
        os._exit(EXIT_CODE)


def compute_seconds() -> float:
    """Returns the processor time of the main thread and TensorFlow's own, in seconds.

    Horovod's and MPI's threads poll while they wait and are left out: their work
    shows no progress. Where the kernel does not tell (no /proc), it is 0.
    """
    ticks = 0
    try:
        for task in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{task}/stat") as file:
                name, _, fields = file.read().partition("(")[2].rpartition(")")
            if name.startswith("tf_") or int(task) == os.getpid():
                ticks += sum(map(int, fields.split()[11:13]))  # user and system
    except OSError:
        pass  # a thread ended meanwhile, or no such file system
    return ticks / os.sysconf("SC_CLK_TCK")


def _frame_of(thread: int) -> FrameType | None:
    """Returns the innermost frame of a thread.

    Python before 3.11.9 may collect garbage inside `sys._current_frames`, where it
    holds a lock: if a finalizer then lets another thread run, and that one ends, all
    wait for ever (python/cpython#106883). So no garbage is collected here.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        return sys._current_frames().get(thread)
    finally:
        if collects:
            gc.enable()


def _forget(frame: FrameType | None) -> None:
    if frame is not None:
        try:
            frame.clear()
        except RuntimeError:
            pass  # it still runs, deeper inside
