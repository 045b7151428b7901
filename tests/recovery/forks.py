"""Runs the job in forked children, and kills them at chosen moments.

Meant for a process that has not imported TensorFlow: forking takes milliseconds there.
"""

import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

TIMEOUT = 60.0

Note = Callable[[str, Any], None]


@dataclass
class Ended:
    """How a child ended, and what it has told."""

    status: int  # as of waitpid
    notes: list[tuple[str, Any]] = field(default_factory=list)

    @property
    def killed(self) -> bool:
        """Whether a signal ended it that leaves no time for anything."""
        code = os.waitstatus_to_exitcode(self.status)
        return code in (-signal.SIGKILL, -signal.SIGALRM)

    def last(self, event: str) -> Any:
        """Returns the value of the last note of this kind, or None."""
        return next(
            (value for kind, value in reversed(self.notes) if kind == event), None
        )


@dataclass
class Child:
    """A forked process, and the pipe through which it tells what it does."""

    process: int
    pipe: int
    data: bytes = b""
    status: int | None = None

    def ended(self) -> Ended:
        notes = [tuple(json.loads(line)) for line in self.data.splitlines()]
        return Ended(self.status if self.status is not None else -1, notes)


def fork(work: Callable[[Note], None]) -> Child:
    """Starts a child; it tells its parent by calling its argument."""
    reading, writing = os.pipe()
    process = os.fork()
    if process:
        os.close(writing)
        return Child(process, reading)
    code = 1
    try:
        os.close(reading)

        def note(event: str, value: Any = None) -> None:
            os.write(writing, json.dumps([event, value]).encode() + b"\n")

        try:
            work(note)
            code = 0
        except Exception as error:
            note("error", f"{type(error).__name__}: {error}")
    finally:
        sys.stdout.flush()
        os._exit(code)


def wait(children: list[Child], *, until_first_dies: bool = False) -> list[Ended]:
    """Waits for children, all of them or until one was killed; the others are then too.

    Raises:
        TimeoutError: It takes too long; all are killed.
    """
    end = time.monotonic() + TIMEOUT
    open_pipes = {child.pipe: child for child in children}
    try:
        while open_pipes:
            ready = select.select(list(open_pipes), [], [], 1.0)[0]
            if time.monotonic() > end:
                raise TimeoutError(f"a child hangs: {[each.data for each in children]}")
            for pipe in ready:
                child = open_pipes[pipe]
                data = os.read(pipe, 1 << 16)
                child.data += data
                if not data:  # the child has ended, in whatever way
                    del open_pipes[pipe]
                    child.status = os.waitpid(child.process, 0)[1]
                    if until_first_dies and child.status:
                        _kill(open_pipes.values())
    except BaseException:
        _kill(open_pipes.values())
        for child in open_pipes.values():
            child.status = os.waitpid(child.process, 0)[1]
        raise
    finally:
        for child in children:
            os.close(child.pipe)
    return [child.ended() for child in children]


def _kill(children: Any) -> None:
    for child in children:
        os.kill(child.process, signal.SIGKILL)
