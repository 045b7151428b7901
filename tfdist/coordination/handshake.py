"""How the two ends of a ledger connection prove that they belong to one job.

Both know the job's token (32 random bytes that travelled through the strategy's
own broadcast). Neither sends it: each answers the other's random challenge with
an HMAC. So a stranger learns nothing, and a client that reached a wrong server
(another job at the same address) notices it too.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import socket
import time
from typing import Any, TypeGuard

from tfdist.coordination.wire import WireError, decode, encode

MAX_GREETING = 1024  # bytes of a line before the other side is trusted


def new_challenge() -> str:
    """Returns 32 random bytes in hexadecimal."""
    return secrets.token_hex(32)


def proof(token: bytes, side: str, challenge: str, nonce: str, rank: int) -> str:
    """Returns the HMAC-SHA256 that only a holder of the token can compute.

    Args:
        token: The job's secret.
        side: "client" or "server": one side's proof is useless to the other.
        challenge: The server's random text.
        nonce: The client's random text.
        rank: The rank that the client claims.
    """
    text = "\n".join((side, challenge, nonce, str(rank)))
    return hmac.new(token, text.encode(), hashlib.sha256).hexdigest()


def verify(
    token: bytes, size: int, challenge: str, answer: dict[str, Any]
) -> tuple[int, str]:
    """Checks a client's answer; returns its rank and the server's own proof.

    Raises:
        WireError: The answer is malformed or its proof is wrong.
    """
    rank, nonce, claimed = (answer.get(key) for key in ("rank", "nonce", "proof"))
    if type(rank) is not int or not 0 <= rank < size:
        raise WireError("no rank of this job")
    if not (_is_ascii(nonce) and _is_ascii(claimed)):
        raise WireError("no proof")
    expected = proof(token, "client", challenge, nonce, rank)
    if not hmac.compare_digest(expected, claimed):
        raise WireError("wrong proof")
    return rank, proof(token, "server", challenge, nonce, rank)


def introduce(
    connection: socket.socket, token: bytes, rank: int, timeout: float
) -> None:
    """Runs the client's side on a fresh blocking connection.

    Args:
        connection: Connected to what may be the server.
        token: The job's secret.
        rank: This process's rank.
        timeout: Seconds that the whole exchange may take.

    Raises:
        WireError: The other side is not this job's server.
        OSError: The connection broke, or no answer came in time.
    """
    deadline = time.monotonic() + timeout
    challenge = decode(_read_line(connection, deadline)).get("challenge")
    if not _is_ascii(challenge):
        raise WireError("no challenge")
    nonce = new_challenge()
    mine = proof(token, "client", challenge, nonce, rank)
    connection.sendall(encode({"rank": rank, "nonce": nonce, "proof": mine}))
    theirs = decode(_read_line(connection, deadline)).get("proof")
    expected = proof(token, "server", challenge, nonce, rank)
    if not (_is_ascii(theirs) and hmac.compare_digest(expected, theirs)):
        raise WireError("wrong proof")


def _is_ascii(text: object) -> TypeGuard[str]:
    # JSON can also hold half a character ("\ud800"), which no encoding takes.
    return isinstance(text, str) and text.isascii()


def _read_line(connection: socket.socket, deadline: float) -> bytes:
    # Byte by byte: what follows the line belongs to the channel made afterwards.
    line = bytearray()
    while not line.endswith(b"\n"):
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        byte = connection.recv(1)
        if not byte or len(line) >= MAX_GREETING:
            raise WireError("no greeting")
        line += byte
    return bytes(line)
