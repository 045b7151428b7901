"""A rank's connection to the ledger's server: what it posts and what it learns."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Mapping, Sequence

from tfdist import errors
from tfdist.coordination.appointment import Looks
from tfdist.coordination.handshake import introduce
from tfdist.coordination.loop import Loop
from tfdist.coordination.server import enable_keepalive
from tfdist.coordination.wire import MAX_LINE, Channel, Message, WireError, encode
from tfdist.coordination.wording import HINT_LOST, short
from tfdist.errors import TfdistError, explain

_ATTEMPT = 3.0  # seconds for one address to accept, and again to greet
_PAUSE = 0.2  # seconds between two rounds through the addresses
_PART = MAX_LINE // 2  # bytes of details in one message, with room for escapes
_VERDICTS = {
    kind.__name__: kind
    for kind in (errors.RankMismatchError, errors.RankLostError, errors.StallError)
}


def connect(
    addresses: Sequence[str],
    port: int,
    token: bytes,
    rank: int,
    timeout: float,
    server: str = "rank 0",
) -> socket.socket:
    """Connects to the job's own server, wherever it answers first.

    Args:
        addresses: The server's candidate addresses, best first.
        port: The server's port.
        token: The job's secret.
        rank: This process's rank.
        timeout: Seconds after which to give up.
        server: Who is called, for the error's text.

    Raises:
        TfdistError: No address led to the server.
    """
    deadline = time.monotonic() + timeout
    reasons: dict[str, str] = {}
    while True:
        for address in addresses:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TfdistError(_unreachable(rank, server, port, reasons))
            attempt = min(_ATTEMPT, left)
            try:
                connection = socket.create_connection((address, port), attempt)
            except OSError as error:
                reasons[address] = str(error)
                continue
            try:
                introduce(connection, token, rank, attempt)
                return connection
            except (OSError, WireError) as error:
                reasons[address] = str(error)
                connection.close()
        time.sleep(_PAUSE)


def _unreachable(rank: int, server: str, port: int, reasons: Mapping[str, str]) -> str:
    tried = ", ".join(f"{at} ({why})" for at, why in reasons.items()) or "nothing"
    return explain(
        f"Rank {rank} cannot reach {server} over TCP",
        received=f"no answer from {tried}",
        expected=f"this job's server at port {port}",
        hint="Allow TCP connections between the hosts of the job, from any port "
        "to any port, and check that no firewall is in between.",
    )


class Link:
    """This rank's end of the ledger.

    Args:
        connection: What `connect` returned.
        rank: This process's rank.
    """

    def __init__(self, connection: socket.socket, rank: int):
        enable_keepalive(connection, sending=True)
        self._rank = rank
        self._channel = Channel(connection)
        self._news = threading.Condition()  # guards what follows
        self._agreed = -1  # the last entry that all ranks agreed on
        self._verdict: tuple[type[TfdistError], str] | None = None
        self._ended: dict[int, str] = {}  # rank -> how, and its last activity
        self._server_gone = False
        self._looks = Looks()
        self._details: tuple[int, Mapping[str, str]] = (-1, {})
        self._loop = Loop(f"tfdist-ledger-{rank}", lambda: None)
        self._loop.add(self._channel, self._hear, self._end)
        self._loop.start()

    def send(self, message: Message) -> None:
        """Queues a message; never blocks."""
        self._channel.send(message)
        self._loop.wake()

    def post(self, entry: int, message: Message, details: Mapping[str, str]) -> None:
        """Posts an entry, and keeps its details in case the server asks for them."""
        self._details = (entry, details)
        self.send({"post": entry, **message})

    def wait(self, entry: int, timeout: float) -> bool:
        """Waits for an entry's outcome; False means that none came in time."""

        def known() -> bool:
            return self._agreed >= entry or self._verdict is not None

        with self._news:
            self._news.wait_for(lambda: known() or self._server_gone, timeout)
            if self._server_gone and not known():
                self._lose_rank_0()
            return known()

    def wait_for_news(self, timeout: float) -> None:
        """Waits until there is a verdict or some rank has ended."""
        with self._news:
            self._news.wait_for(
                lambda: self._verdict is not None or bool(self._ended), timeout
            )

    def look(self, timeout: float) -> bool | None:
        """Counts a look; see `Ledger.look`. None means that no answer came in time."""

        def over() -> bool:
            return self._looks.due is not None or self._verdict is not None

        with self._news:
            self._looks.look()
            self._news.wait_for(lambda: over() or self._server_gone, timeout)
            if self._server_gone and not over():
                self._lose_rank_0()
            return self._looks.due

    def verdict(self) -> TfdistError | None:
        """Returns a fresh instance of the verdict, or None."""
        if self._verdict is None:
            return None
        kind, text = self._verdict
        return kind(text)

    def decide(self, error: TfdistError) -> None:
        """Sets the verdict, unless there is one."""
        with self._news:
            if self._verdict is None:
                self._verdict = type(error), str(error)
            self._news.notify_all()

    def ended(self) -> dict[int, str]:
        """Returns the ranks that have ended: how, and their last activity."""
        with self._news:
            return dict(self._ended)

    def close(self, seconds: float) -> None:
        """Announces the end and closes the connection."""
        self.send({"bye": True})
        self._loop.stop(seconds)

    def _hear(self, message: Message) -> None:
        try:
            if "tell" in message:
                self._tell(int(message["tell"]))
            if "ask" in message:
                with self._news:
                    answer = self._looks.answer()
                self.send({"looks": answer})
            with self._news:
                if "appointed" in message:
                    self._looks.appoint(int(message["appointed"]))
                if "agreed" in message:
                    self._agreed = int(message["agreed"])
                if "ended" in message:
                    self._ended[int(message["ended"])] = str(message["text"])
                self._news.notify_all()
            if "verdict" in message:
                kind = _VERDICTS[message["verdict"]]
                self.decide(kind(str(message["text"])))
        except (KeyError, TypeError, ValueError) as error:
            raise WireError(f"malformed message: {error!r}") from None

    def _tell(self, entry: int) -> None:
        """Sends the details of the last entry, in parts that fit into a line."""
        kept, details = self._details
        part: dict[str, str] = {}
        size = 0
        for key, value in details.items() if kept == entry else ():
            key, value = short(key), short(value)
            size += len(encode({key: value}))
            if size > _PART:
                self.send({"details": entry, "part": part, "last": False})
                part, size = {}, 0
            part[key] = value
        self.send({"details": entry, "part": part, "last": True})

    def _end(self) -> None:
        """Takes the end of the connection; after rank 0's farewell it is no news."""
        with self._news:
            self._server_gone = True
            if 0 not in self._ended:
                self._ended[0] = "was lost (its process died or its connection broke)"
                self._lose_rank_0()
            self._news.notify_all()

    def _lose_rank_0(self) -> None:
        if self._verdict is None:
            text = f"Rank 0 {self._ended[0]}.{HINT_LOST}"
            self._verdict = errors.RankLostError, text
