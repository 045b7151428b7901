"""The ledger's messages: JSON objects, one a line, over a socket that never blocks.

JSON and nothing else: what comes from the network is never unpickled or
executed. A line is limited, so a stranger cannot fill this process's memory.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Mapping
from typing import Any

MAX_LINE = 64 * 1024  # bytes, the newline included
_CHUNK = 64 * 1024  # bytes to read at once

Message = dict[str, Any]


class WireError(Exception):
    """The other side sent what is not a message of the ledger."""


def encode(message: Mapping[str, Any]) -> bytes:
    """Returns the message as one line.

    Raises:
        WireError: The line would exceed `MAX_LINE` bytes.
    """
    # As few bytes as can be: escapes would treble the size of an emoji. What is no
    # Unicode (a file's name, say) arrives as it is, too.
    text = json.dumps(message, separators=(",", ":"), ensure_ascii=False)
    line = text.encode("utf-8", "surrogatepass") + b"\n"
    if len(line) > MAX_LINE:
        raise WireError(f"a message of {len(line)} bytes exceeds {MAX_LINE}")
    return line


def decode(line: bytes) -> Message:
    """Returns the message that one line holds.

    Raises:
        WireError: The line is not a JSON object.
    """
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        raise WireError(f"not JSON: {line[:40]!r}") from None
    if not isinstance(message, dict):
        raise WireError(f"not a JSON object: {line[:40]!r}")
    return message


class Channel:
    """Both directions of one connection, buffered, for a thread that selects.

    `send` may be called by any thread and only queues; the selecting thread calls
    `flush` when the socket is writable and `receive` when it is readable.
    """

    def __init__(self, connection: socket.socket, limit: int = MAX_LINE):
        self.connection = connection
        self.limit = limit  # bytes a line may have
        self.closed = False  # the other side has ended the connection
        self._incoming = bytearray()
        self._outgoing = bytearray()
        self._lock = threading.Lock()
        connection.setblocking(False)

    def send(self, message: Mapping[str, Any]) -> None:
        """Queues a message."""
        line = encode(message)
        with self._lock:
            self._outgoing += line

    @property
    def pending(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._outgoing)

    @property
    def backlog(self) -> int:
        """Bytes that wait to be sent."""
        return len(self._outgoing)

    def flush(self) -> None:
        """Sends what the socket takes now."""
        with self._lock:
            try:
                sent = self.connection.send(self._outgoing) if self._outgoing else 0
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                # Reading tells why; what can no longer be sent is dropped.
                sent = len(self._outgoing)
            del self._outgoing[:sent]

    def receive(self) -> list[Message]:
        """Returns the messages that have arrived completely; sets `closed` at the end.

        Raises:
            WireError: What arrived is not a message, or is longer than the limit.
        """
        try:
            chunk = self.connection.recv(_CHUNK)
        except (BlockingIOError, InterruptedError):
            return []
        except OSError:
            chunk = b""
        if not chunk:
            self.closed = True
            return []
        self._incoming += chunk
        *lines, rest = self._incoming.split(b"\n")
        self._incoming = bytearray(rest)
        if any(len(line) >= self.limit for line in (*lines, rest)):
            raise WireError(f"a line is longer than {self.limit} bytes")
        return [decode(bytes(line)) for line in lines]

    def close(self) -> None:
        """Closes the socket."""
        self.connection.close()
