"""Child processes that find this interpreter's programs and never outlive us."""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

GRACE_SECONDS = 5.0
POLL_SECONDS = 0.2
TIMED_OUT = 124  # the exit code that coreutils' `timeout` reports
_LAST_BYTES = 1 << 20  # of a log, in which all lies that is shown of it

# What CMake, a compiler or pip writes where a build first goes wrong; pip's own
# wrapper around a failed build says nothing.
BUILD_ERROR = re.compile(r"CMake Error|error: (?!subprocess-exited)|^ERROR: ")


def child_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Returns our environment with this interpreter's programs first on PATH.

    A virtual environment that is not activated is not on PATH, yet horovodrun
    calls `mpirun`, and CMake calls `mpicxx`, by name only.

    Args:
        extra: Variables to add or replace.
    """
    programs = str(Path(sys.executable).parent)
    path = os.environ.get("PATH", os.defpath)
    return {**os.environ, "PATH": programs + os.pathsep + path, **(extra or {})}


def find_program(name: str) -> str | None:
    """Returns the path of a program beside this interpreter or on PATH."""
    return shutil.which(name, path=child_environment()["PATH"])


def run_logged(
    command: Sequence[str | Path],
    log: Path,
    *,
    environment: Mapping[str, str],
    timeout: float | None = None,
) -> int:
    """Runs a command to its end and appends all that it prints to a file.

    Args:
        command: The program and its arguments.
        log: The file to append to; its folder exists.
        environment: The complete environment of the child.
        timeout: Seconds until the command and its descendants are ended.

    Returns:
        The exit code; `TIMED_OUT` when the time was up. However this function
        ends, no descendant of the command is left.
    """
    return run_together([Program(command, log, environment)], timeout=timeout)[0]


@dataclass(frozen=True)
class Program:
    """One of the processes that are started together."""

    command: Sequence[str | Path]  # the program and its arguments
    log: Path  # receives all that it prints; its folder exists
    environment: Mapping[str, str]  # the complete environment of the child
    stdin: Path | None = None  # what it reads; None: nothing


def run_together(
    programs: Sequence[Program],
    *,
    timeout: float | None = None,
    keep_going: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> list[int]:
    """Runs processes side by side until all have ended.

    When one fails, the others, which may wait for it, get `GRACE_SECONDS` to say
    so themselves and are then ended.

    Args:
        programs: What to start.
        timeout: Seconds until all of them and their descendants are ended.
        keep_going: Whether the others go on when one fails: they are independent.
        stop: Whether all are to be ended now; asked again and again.

    Returns:
        The exit codes, in the order of the programs: `TIMED_OUT` where the time was
        up, `-SIGTERM` where a process was ended because another one failed or at
        `stop`. However this function ends, no descendant is left.
    """
    children: list[subprocess.Popen[bytes]] = []
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    failed_at = math.inf
    ended = -signal.SIGTERM  # what those get that still run when the wait is over
    try:
        for program in programs:
            with _signals_wait():
                children.append(_start(program))
        while any(child.poll() is None for child in children):
            now = time.monotonic()
            if now >= deadline:
                ended = TIMED_OUT
                break
            if not keep_going and any(child.poll() for child in children):
                failed_at = min(failed_at, now)
            if now >= failed_at + GRACE_SECONDS or stop():
                break
            _wait(children, min(deadline - now, POLL_SECONDS))
        # Now: once psutil has waited for a child, its exit code is lost.
        codes = [child.poll() for child in children]
    finally:
        for child in children:
            end(child)
    return [ended if code is None else code for code in codes]


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """Holds back signals: an exception just after a fork would lose the child."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    numbers = heeded(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    try:
        with noted_signals(received, *numbers):
            yield
    finally:
        for number in received:
            signal.raise_signal(number)


def heeded(*numbers: signal.Signals) -> list[signal.Signals]:
    """Returns the signals, without SIGHUP where `nohup` has it ignored."""
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [each for each in numbers if each != signal.SIGHUP or not ignored]


@contextlib.contextmanager
def noted_signals(received: list[int], *numbers: int) -> Iterator[None]:
    """Appends the signals that arrive to a list, instead of being ended by them."""
    former = {
        number: signal.signal(number, lambda number, _: received.append(number))
        for number in numbers
    }
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _start(program: Program) -> subprocess.Popen[bytes]:
    source = os.devnull if program.stdin is None else program.stdin
    with program.log.open("ab") as output, open(source, "rb") as stdin:
        return subprocess.Popen(
            [os.fspath(word) for word in program.command],
            stdin=stdin,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=program.environment,
            start_new_session=True,
        )


def _wait(children: Sequence[subprocess.Popen[bytes]], seconds: float) -> None:
    """Waits until the first child that still runs ends, or the time is up."""
    for child in children:
        if child.returncode is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(max(0.0, seconds))
            return


def end(child: subprocess.Popen[bytes]) -> None:
    """Ends a child and all its descendants; does nothing if it has ended."""
    if child.poll() is not None:
        return
    # horovodrun puts its workers in sessions of their own, which a signal to the
    # child's process group does not reach: hence the list, taken while it lives.
    family = [psutil.Process(child.pid)]
    family += family[0].children(recursive=True)
    _signal_all(family, signal.SIGTERM)
    _, stubborn = psutil.wait_procs(family, timeout=GRACE_SECONDS)
    _signal_all(stubborn, signal.SIGKILL)
    child.wait()


def _signal_all(processes: Iterable[psutil.Process], number: int) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue


def tail(log: Path, lines: int = 20) -> str:
    """Returns the last lines of a text file."""
    return "\n".join(last_text(log).splitlines()[-lines:])


def last_text(log: Path) -> str:
    """Returns the last MiB of a text file, which may be larger than the memory."""
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _LAST_BYTES))
        return file.read(_LAST_BYTES).decode(errors="replace")


def first_error(log: Path, lines: int = 12) -> str:
    """Returns the lines of a build's log from its first error on, else its last."""
    written = log.read_text(errors="replace").splitlines()
    for number, line in enumerate(written):
        if BUILD_ERROR.search(line):
            return "\n".join(written[number : number + lines])
    return tail(log, lines)
