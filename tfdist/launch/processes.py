"""Child processes that find this interpreter's programs and never outlive us."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import psutil

GRACE_SECONDS = 5.0
TIMED_OUT = 124  # the exit code that coreutils' `timeout` reports

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
    with log.open("ab") as output:
        child = subprocess.Popen(
            [os.fspath(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        try:
            return child.wait(timeout)
        except subprocess.TimeoutExpired:
            return TIMED_OUT
        finally:
            end(child)


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
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def first_error(log: Path, lines: int = 12) -> str:
    """Returns the lines of a build's log from its first error on, else its last."""
    written = log.read_text(errors="replace").splitlines()
    for number, line in enumerate(written):
        if BUILD_ERROR.search(line):
            return "\n".join(written[number : number + lines])
    return tail(log, lines)
