"""One rank's end of the meetings in which all ranks enter a test together."""

from __future__ import annotations

import os
import secrets
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from tfdist.coordination.addresses import candidates
from tfdist.coordination.launch import Launch
from tfdist.coordination.loop import Loop
from tfdist.coordination.server import Server, enable_keepalive
from tfdist.coordination.wire import Channel, Message
from tfdist.testing import rendezvous
from tfdist.testing.umpire import Umpire

START_TIMEOUT = 60.0  # seconds for the slowest rank's pytest to start
_FAREWELL = 0.5  # seconds to say goodbye


class Ended(Exception):
    """The run is over for all ranks: one was lost, late or out of step."""


class Meeting:
    """This rank's connection to the umpire.

    Args:
        connection: What `rendezvous.find` returned.
        rank: This process's rank.
        server: The umpire's server on rank 0, else None.
        offer: The file to remove at the end, on rank 0.
    """

    def __init__(
        self,
        connection: socket.socket,
        rank: int,
        server: Server | None,
        offer: Path | None,
    ):
        enable_keepalive(connection, sending=True)
        self._server = server
        self._offer = offer
        self._channel = Channel(connection)
        self._news = threading.Condition()
        self._entry = 0
        self._met: Message = {"met": -1}
        self.end: Message | None = None
        self.over = threading.Event()  # the chief's report is written
        self.on_end: Callable[[], None] = lambda: None  # called in the loop's thread
        self._loop = Loop(f"tfdist-tests-{rank}", lambda: None)
        self._loop.add(self._channel, self._hear, self._lose)
        self._loop.start()

    def meet(self, what: str, code: int = 0) -> Message:
        """Waits until all ranks have come to the same point.

        Args:
            what: The point; it must be the same on all ranks.
            code: This rank's exit code so far.

        Returns:
            A mapping with "failures" (of this entry, the first one first) and "code"
            (the ranks' highest).

        Raises:
            Ended: The ranks will never meet again.
        """
        entry, self._entry = self._entry, self._entry + 1
        self.send({"post": entry, "what": what, "code": code})
        with self._news:
            self._news.wait_for(
                lambda: self._met["met"] >= entry or self.end is not None
            )
            if self._met["met"] < entry:
                raise Ended(str((self.end or {})["end"]))
        if self._offer is not None:  # all have found it
            self._offer.unlink(missing_ok=True)
        return self._met

    def send(self, message: Message) -> None:
        """Queues a message; never blocks."""
        self._channel.send(message)
        self._loop.wake()

    def close(self) -> None:
        """Ends the connection, and on rank 0 the server."""
        self._loop.stop(_FAREWELL)
        if self._server is not None:
            self._server.stop(_FAREWELL)
        if self._offer is not None:
            self._offer.unlink(missing_ok=True)

    def _hear(self, message: Message) -> None:
        with self._news:
            if "met" in message:
                self._met = message
            if "over" in message:
                self.over.set()
            if "end" in message and self.end is None:
                self.end = message
            self._news.notify_all()
        if "end" in message:
            self.on_end()

    def _lose(self) -> None:
        if not self.over.is_set():
            text = "rank 0 was lost: its process ended"
            self._hear({"end": text, "failures": [], "stacks": False})
        self.over.set()  # nobody is left who writes a report


def start(launch: Launch, project: Path, timeout: float, grace: float) -> Meeting:
    """Connects this rank with the others; all ranks call it.

    Args:
        launch: This rank's place in the job.
        project: The folder of the tests.
        timeout: Seconds for one test; 0 for any time.
        grace: Seconds for the others after one rank has failed.

    Raises:
        TfdistError: The ranks do not find each other.
        Ended: A rank was lost meanwhile.
        OSError: Rank 0 cannot listen, or cannot leave its file.
    """
    path = rendezvous.offer_path(launch, os.environ, project)
    server = None
    if launch.rank == 0:
        bind = "127.0.0.1" if launch.local_size == launch.size else None
        token = secrets.token_bytes(32)
        server = Server(launch.size, token, bind, Umpire(launch.size, timeout, grace))
        offer = {"addresses": candidates(bind), "port": server.port}
        rendezvous.publish(path, {**offer, "token": token.hex()})
    connection = rendezvous.find(path, launch.rank, START_TIMEOUT)
    met = Meeting(connection, launch.rank, server, path if server else None)
    # Before any test file is imported: `from mpi4py import MPI` waits for the other
    # ranks while it holds the interpreter's lock, and rank 0's server stands still.
    met.meet("the start")
    return met
