"""The end of a run whose ranks will never meet again, bounded in time.

A rank may be blocked in C++ for ever, where no Python exception reaches it. So a
thread ends the process: on the chief when the report is written (by that thread if
the main one is blocked), on the others when the chief has said so.
"""

from __future__ import annotations

import faulthandler
import os
import tempfile
import threading
from collections.abc import Callable

import pytest

from tfdist.testing.meeting import Meeting

_LEAVE = 2.0  # seconds for the chief's main thread to take the end itself
_REPORT = 20.0  # seconds for the chief to write its report
_FLIGHT = 1.0  # seconds for the news that it is written to reach all ranks
EXIT_CODE = 1


class Ending:
    """What one rank does when the umpire has ended the run.

    Args:
        config: pytest's configuration.
        rank: This process's rank.
        met: Its connection to the others.
        timeout: Seconds for one test; 0 for any time.
        report: Reports the current test as failed, on the chief.
    """

    def __init__(
        self,
        config: pytest.Config,
        rank: int,
        met: Meeting,
        timeout: float,
        report: Callable[[], None],
    ):
        self._config = config
        self._rank = rank
        self._meeting = met
        self._timeout = timeout
        self._report = report
        self._terminal = os.dup(2)  # before pytest captures it
        self._main = os.getpid()
        self.taken = threading.Event()  # the main thread is ending the run itself

    def arm(self) -> None:
        """Bounds the time until the next call, whatever the process does.

        Code in C++ that waits and keeps the interpreter's lock, as MPI_Init does,
        stops all threads of this class; faulthandler's own needs no lock.
        """
        if self._timeout and not self._config.getini("faulthandler_timeout"):
            seconds = self._timeout + _REPORT
            faulthandler.dump_traceback_later(seconds, exit=True, file=self._terminal)

    def disarm(self) -> None:
        """Takes the last `arm` back."""
        if self._timeout:
            faulthandler.cancel_dump_traceback_later()

    def begin(self) -> None:
        """Starts the end, in a thread of its own."""
        for target in (self._end, self._end_late):
            threading.Thread(target=target, name="tfdist-end", daemon=True).start()

    def finish(self) -> None:
        """Tells the other ranks that the report is written."""
        self._meeting.send({"over": True})
        if self._meeting.end is not None:
            self._meeting.over.wait(_FLIGHT)
            self._exit()

    def _end(self) -> None:
        end = self._meeting.end or {}
        if end.get("stacks"):
            self._show_stacks()
        if self._rank > 0:
            self._meeting.over.wait(_REPORT + _LEAVE + _FLIGHT)
            self._exit()
        if not self.taken.wait(_LEAVE):
            self._report_from_here()
            self.finish()

    def _end_late(self) -> None:
        threading.Event().wait(_REPORT + 2 * _LEAVE + 2 * _FLIGHT)
        self._exit()

    def _report_from_here(self) -> None:
        """Writes the report while the main thread is blocked inside a test."""
        plugins = self._config.pluginmanager
        capture = plugins.getplugin("capturemanager")
        if capture is not None:
            capture.suspend(in_=True)
        session = plugins.getplugin("session")
        self._report()
        # The runner would tear fixtures down, which may wait for the other ranks.
        plugins.unregister(name="runner")
        plugins.unregister(name="tfdist-lockstep")
        self._config.hook.pytest_sessionfinish(session=session, exitstatus=EXIT_CODE)

    def _show_stacks(self) -> None:
        with tempfile.TemporaryFile() as file:
            faulthandler.dump_traceback(file)
            file.seek(0)
            stacks = file.read()
        title = f"rank {self._rank}: time is up; its stacks:\n".encode()
        os.write(self._terminal, title + stacks)

    def _exit(self) -> None:
        if os.getpid() == self._main:
            os._exit(EXIT_CODE)
