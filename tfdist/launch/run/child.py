"""The user's script as a child process: its streams, its state, its end."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from tfdist.launch.run.bootstrap import STACKS_SIGNAL

STDOUT, STDERR, STACKS, EVENTS = 1, 2, 3, 4

_PR_SET_CHILD_SUBREAPER = 36
_CHUNK = 32 * 1024  # bytes; as base64 it fits into one message


class Child:
    """A rank's process, in a session of its own, where no terminal's Ctrl-C comes.

    Args:
        script: The script or "-m" and a module, and its words.
        environment: The complete environment.
        record: The descriptor of its progress.
        separate: Keep stdout and stderr apart; else their order is exact.
        terminals: Whether stdout and stderr shall be terminals.
        window: The terminal's columns and lines.
    """

    def __init__(
        self,
        script: Sequence[str],
        environment: Mapping[str, str],
        record: int,
        *,
        separate: bool = False,
        terminals: tuple[bool, bool] = (False, False),
        window: tuple[int, int] = (80, 24),
    ):
        # What the script leaves behind becomes our child, so that we can end it.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
        self.streams: dict[int, int] = {}  # descriptor to read from -> what it is
        events = self._pipe(EVENTS)
        stacks = self._pipe(STACKS)
        out = self._terminal(window) if terminals[0] else self._pipe(STDOUT)
        err = out
        if separate and terminals != (True, True):
            err = self._terminal(window, STDERR) if terminals[1] else self._pipe(STDERR)
        words = [str(os.getpid()), str(events), str(stacks), str(record), *script]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tfdist.launch.run.bootstrap", *words],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=environment,
            pass_fds=(events, stacks, record),
            start_new_session=True,
        )
        for descriptor in {events, stacks, out, err}:
            os.close(descriptor)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def poll(self) -> int | None:
        """Returns the exit code, the negative signal, or None while it runs."""
        return self._process.poll()

    def read(self, descriptor: int) -> bytes:
        """Returns what a stream has; b"" at its end, which also closes it."""
        try:
            chunk = os.read(descriptor, _CHUNK)
        except OSError:  # a terminal that nobody writes to any more
            chunk = b""
        if not chunk:
            del self.streams[descriptor]
            os.close(descriptor)
        return chunk

    def state(self) -> str:
        """Returns the kernel's letter for the process: R, S, D, T (stopped), Z."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text()
        except OSError:
            return "?"
        return stat.rpartition(")")[2].split()[0]

    def signal(self, number: int) -> None:
        """Sends the process one signal, which it receives even if it is stopped."""
        if self.poll() is None:
            os.kill(self.pid, number)
            os.kill(self.pid, signal.SIGCONT)

    def ask_for_stacks(self) -> None:
        """Makes it write its Python stacks; also while it is stopped or blocked."""
        self.signal(STACKS_SIGNAL)

    def kill(self) -> None:
        """Ends the process and everything that it has started."""
        for process in self.family():
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue

    def family(self) -> list[psutil.Process]:
        """Returns what runs of the process and its descendants."""
        _reap(self.pid)
        found = psutil.Process().children(recursive=True)
        return [process for process in found if not _is_over(process)]

    def _pipe(self, kind: int) -> int:
        reading, writing = os.pipe()
        self.streams[reading] = kind
        return writing

    def _terminal(self, window: tuple[int, int], kind: int = STDOUT) -> int:
        ours, theirs = os.openpty()
        columns, lines = window
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", lines, columns, 0, 0))
        modes = termios.tcgetattr(theirs)
        modes[1] &= ~termios.OPOST  # the user's own terminal makes \r\n of \n
        termios.tcsetattr(theirs, termios.TCSANOW, modes)
        self.streams[ours] = kind
        return theirs


def _is_over(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def _reap(child: int) -> None:
    """Collects ended orphans; the child itself is its Popen's to collect."""
    for process in psutil.Process().children():
        if process.pid != child and _is_over(process):
            try:
                os.waitpid(process.pid, os.WNOHANG)
            except ChildProcessError:
                continue
