"""The wrapper around each rank: `python -m tfdist.launch.run.rank`.

horovodrun and mpirun kill seconds after their SIGTERM, and report one exit code for
all. So each rank has a wrapper, on other hosts too, which alone sends it signals,
waits out the grace period, and tells the launcher all over a connection of its own:
the output, the steps, and how the rank ended. If that connection breaks, the
launcher is gone, and the rank is ended. The launcher in turn lets the wrappers go
only when all ranks have ended, so horovodrun never sees a reason to kill.
"""

from __future__ import annotations

import argparse
import base64
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tfdist.coordination import progress
from tfdist.coordination.launch import read_launch
from tfdist.coordination.link import connect
from tfdist.coordination.server import enable_keepalive
from tfdist.coordination.wire import Channel, Message, WireError
from tfdist.launch.run.child import EVENTS, STACKS, Child
from tfdist.launch.run.endings import ENDING_SIGNALS
from tfdist.launch.run.stacks import is_waiting
from tfdist.launch.run.ticket import VARIABLE, Ticket, decode, remove

_TICK = 0.2  # seconds between two looks at the child
_PULSE = 1.0  # seconds between two reports of its steps
_STACKS = 1.0  # seconds in which the stacks are written
_LEFTOVERS = 2.0  # seconds for what the script leaves behind to end by itself
_BACKLOG = 1 << 20  # bytes on the way to the launcher, above which output waits


class Wrapper:
    """Serves one rank from its start to its end.

    Args:
        channel: The connection to the launcher.
        child: The rank.
        record: The descriptor of its progress.
        grace: Seconds between SIGTERM and SIGKILL.
    """

    def __init__(self, channel: Channel, child: Child, record: int, grace: float):
        self._channel = channel
        self._child = child
        self._record = record
        self._grace = grace
        self._asked: int | None = None  # the signal that the rank was sent
        self._kill_at: float | None = None
        self._ended_at: float | None = None
        self._closed = False  # all is told
        self._dismissed = False  # by the launcher, or by its end
        self._pulse_at = 0.0
        self._stacks = b""
        self._stacks_until: float | None = None
        self._state = ""  # the kernel's letter when the stacks were asked for
        self._wake_read, self._wake_write = socket.socketpair()

    def serve(self) -> None:
        """Returns when the rank and all its descendants have ended, and all is told."""
        self._wake_write.setblocking(False)
        signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        for number in ENDING_SIGNALS:
            signal.signal(number, lambda number, frame: self.ask(number))
        self._channel.send({"host": socket.gethostname(), "pid": self._child.pid})
        while not (self._closed and self._dismissed):
            self._select()
            now = time.monotonic()
            self._report_steps(now)
            self._report_stacks(now)
            self._look_after_child(now)
        self._channel.flush()

    def ask(self, number: int) -> None:
        """Sends the rank a signal, once; it then has the grace period to end."""
        if self._asked is None:
            self._asked = number
            self._child.signal(number)
            self._kill_at = time.monotonic() + self._grace

    def _select(self) -> None:
        connection = self._channel.connection
        reading: list[int] = [self._wake_read.fileno()]
        if not self._channel.closed:
            reading.append(connection.fileno())
        for descriptor, kind in self._child.streams.items():
            if kind == EVENTS or self._channel.backlog < _BACKLOG:
                reading.append(descriptor)
        writing = [connection.fileno()] if self._channel.pending else []
        ready, writable, _ = select.select(reading, writing, [], _TICK)
        for descriptor in ready:
            if descriptor == self._wake_read.fileno():
                self._wake_read.recv(4096)
            elif descriptor == connection.fileno():
                self._hear()
            else:
                self._forward(descriptor)
        if writable:
            self._channel.flush()

    def _hear(self) -> None:
        try:
            for message in self._channel.receive():
                self._obey(message)
        except (WireError, TypeError, ValueError):
            self._channel.closed = True
        if self._channel.closed:  # the launcher is gone, or talks nonsense
            self._dismissed = True
            self.ask(signal.SIGTERM)

    def _obey(self, message: Message) -> None:
        if "end" in message:
            self.ask(int(message["end"]))
        if "kill" in message:
            self._kill_at = time.monotonic()
        if "stacks" in message and self._ended_at is None:
            self._state = self._child.state()
            self._stacks = b""
            self._stacks_until = time.monotonic() + _STACKS
            self._child.ask_for_stacks()
        if "done" in message:
            self._dismissed = True

    def _forward(self, descriptor: int) -> None:
        kind = self._child.streams[descriptor]
        chunk = self._child.read(descriptor)
        if not chunk:
            return
        if kind == EVENTS:
            # One event only: its code, on one short line.
            self._channel.send({"failed": int(chunk.split()[1])})
            return
        if kind == STACKS:
            self._stacks += chunk
        self._channel.send({"out": base64.b64encode(chunk).decode(), "to": kind})

    def _report_steps(self, now: float) -> None:
        if now < self._pulse_at or self._ended_at is not None:
            return
        self._pulse_at = now + _PULSE
        self._channel.send(self._progress())

    def _progress(self) -> Message:
        return asdict(progress.read(self._record))

    def _report_stacks(self, now: float) -> None:
        if self._stacks_until is not None and now >= self._stacks_until:
            self._stacks_until = None
            waiting = is_waiting(self._stacks.decode(errors="replace"))
            self._channel.send({"state": self._state, "waiting": waiting})

    def _look_after_child(self, now: float) -> None:
        if self._ended_at is None:
            code = self._child.poll()
            if code is not None:
                self._ended_at = now
                ending = {"exit": code, "time": time.time()}
                self._channel.send(self._progress() | ending)
        elif not self._closed and (family := self._child.family()):
            if now >= self._ended_at + _LEFTOVERS:
                self._child.kill()
            del family
        elif not self._closed:
            late = now >= self._ended_at + 2 * _LEFTOVERS
            shown = [k for k in self._child.streams.values() if k != STACKS]
            if late or not shown:
                self._closed = True
                self._channel.send({"closed": True})
        if self._kill_at is not None and now >= self._kill_at and not self._closed:
            self._child.kill()


def main(arguments: Sequence[str]) -> int:
    """Runs one rank; returns 0, for the launcher knows the rest."""
    parser = argparse.ArgumentParser(prog="tfdist.launch.run.rank")
    parser.add_argument("--rank", type=int, help="default: what the launcher has set")
    parser.add_argument("--stdin", action="store_true", help="read the ticket there")
    parser.add_argument("--connect-seconds", type=float, default=30.0)
    options = parser.parse_args(arguments)
    path = os.environ.pop(VARIABLE, "")
    ticket = decode(sys.stdin.readline() if options.stdin else Path(path).read_text())
    # Horovod 0.28.1 (gloo_run.py) does not quote the folder that it changes to on
    # another host: from one with a space in its name, it starts this in $HOME.
    os.chdir(ticket.folder)
    rank = options.rank
    if rank is None:
        launch = read_launch(os.environ)
        rank = 0 if launch is None else launch.rank
    connection = connect(
        ticket.addresses,
        ticket.port,
        bytes.fromhex(ticket.token),
        rank,
        options.connect_seconds,
        server="tfdist run",
    )
    enable_keepalive(connection)
    record = progress.create()
    child = Child(
        ticket.script,
        _environment(ticket, rank),
        record,
        separate=rank == 0,
        terminals=ticket.terminals if rank == 0 else (False, False),
        window=ticket.window,
    )
    Wrapper(Channel(connection), child, record, ticket.grace).serve()
    if path:  # on another host nobody else does; all ranks have read it
        remove(Path(path))
    connection.close()
    return 0


def _environment(ticket: Ticket, rank: int) -> dict[str, str]:
    # horovodrun and mpirun have numbered this process; nobody removes that.
    kept = {k: v for k, v in os.environ.items() if k not in ticket.removed}
    return {**kept, **ticket.environment, **ticket.environments[rank]}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
