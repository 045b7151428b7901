"""The side of a connection that waits for ranks: who may speak, and what is answered.

Rank 0 serves the ledger and the ranks of a test run with it, `tfdist run` its wrappers.
"""

from __future__ import annotations

import socket
import time
from functools import partial
from typing import Protocol

from tfdist.coordination.handshake import MAX_GREETING, new_challenge, verify
from tfdist.coordination.loop import Loop
from tfdist.coordination.wire import MAX_LINE, Channel, Message, WireError

_MAX_STRANGERS = 64  # connections that have not proved themselves
_GREETING_TIME = 5.0  # seconds to prove oneself
_LOST_AFTER = 25.0  # seconds; as long as the keepalives below


class Referee(Protocol):
    """What a server hands the ranks' messages to; times are of the monotonic clock."""

    def join(self, rank: int, now: float) -> None:
        """Notes that a rank has connected."""

    def receive(self, rank: int, message: Message, now: float) -> None:
        """Takes a rank's message; raises WireError if it is malformed."""

    def leave(self, rank: int, now: float) -> None:
        """Notes that a rank's connection has ended."""

    def tick(self, now: float) -> None:
        """Looks at what only the passing of time can decide."""

    def take_outbox(self) -> list[tuple[int | None, Message]]:
        """Returns and forgets what is to be sent: (rank or None for all, message)."""


class Server:
    """Accepts the ranks of one job and passes their reports to a referee.

    Args:
        size: The number of ranks.
        token: The job's secret.
        bind_address: The local address to listen at, or None for all.
        referee: Receives the reports, in the server's own thread.

    Raises:
        OSError: The address cannot be listened at.
    """

    def __init__(
        self, size: int, token: bytes, bind_address: str | None, referee: Referee
    ):
        listener = listen(bind_address)
        self.port: int = listener.getsockname()[1]
        self._size = size
        self._token = token
        self._referee = referee
        self._ranks: dict[int, Channel] = {}
        self._strangers: dict[Channel, float] = {}  # when they connected
        self._loop = Loop("tfdist-ledger-server", self._tick)
        self._loop.listen(listener, self._welcome)
        self._loop.start()

    def stop(self, seconds: float) -> None:
        """Sends what is queued and ends the thread."""
        self._loop.stop(seconds)

    def _welcome(self, connection: socket.socket) -> None:
        if len(self._strangers) >= _MAX_STRANGERS:
            connection.close()
            return
        channel = Channel(connection, limit=MAX_GREETING)
        challenge = new_challenge()
        self._strangers[channel] = time.monotonic()
        self._loop.add(
            channel,
            partial(self._hear, channel, challenge),
            partial(self._part, channel),
        )
        channel.send({"challenge": challenge})

    def _hear(self, channel: Channel, challenge: str, message: Message) -> None:
        if channel in self._strangers:
            rank, answer = verify(self._token, self._size, challenge, message)
            if rank in self._ranks:
                raise WireError("this rank is already connected")
            del self._strangers[channel]
            channel.limit = MAX_LINE
            enable_keepalive(channel.connection)
            self._ranks[rank] = channel
            channel.send({"proof": answer})
            self._referee.join(rank, time.monotonic())
        else:
            rank = next(r for r, known in self._ranks.items() if known is channel)
            self._referee.receive(rank, message, time.monotonic())
        self._deliver()

    def _part(self, channel: Channel) -> None:
        self._strangers.pop(channel, None)
        for rank in [r for r, known in self._ranks.items() if known is channel]:
            del self._ranks[rank]
            self._referee.leave(rank, time.monotonic())
        self._deliver()

    def _tick(self) -> None:
        now = time.monotonic()
        for channel, since in list(self._strangers.items()):
            if now - since > _GREETING_TIME:
                self._loop.drop(channel)
        self._referee.tick(now)
        self._deliver()

    def _deliver(self) -> None:
        for rank, message in self._referee.take_outbox():
            receivers = self._ranks if rank is None else (rank,)
            for receiver in receivers:
                if receiver in self._ranks:
                    self._ranks[receiver].send(message)


def listen(bind_address: str | None) -> socket.socket:
    """Returns a listening socket at a free port; IPv6 as well where there is any."""
    if bind_address is not None:
        family = socket.AF_INET6 if ":" in bind_address else socket.AF_INET
        return socket.create_server((bind_address, 0), family=family, backlog=512)
    try:
        return socket.create_server(
            ("", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=512
        )
    except (OSError, ValueError):  # no IPv6 in this kernel or container
        return socket.create_server(("", 0), backlog=512)


def enable_keepalive(connection: socket.socket, *, sending: bool = False) -> None:
    """Makes the kernel notice within half a minute that the other host is gone.

    Args:
        connection: A TCP connection.
        sending: Whether what has been sent has to arrive within that time, too:
            Linux sends no keepalive while it waits for an acknowledgement, and that
            takes a quarter of an hour. Not where the other side may be paused
            (Ctrl-Z) with its buffers full, and is to be heard of again.
    """
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("KEEPIDLE", 10), ("KEEPINTVL", 5), ("KEEPCNT", 3)):
        if hasattr(socket, f"TCP_{name}"):  # names differ between systems
            option = getattr(socket, f"TCP_{name}")
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
    if sending and hasattr(socket, "TCP_USER_TIMEOUT"):
        limit = int(1000 * _LOST_AFTER)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, limit)
