"""The agreement ledger: ranks that disagree get a Python error, not a hang.

A collective that one rank enters and another does not waits for ever inside C++.
So every rank first posts, over a small TCP side channel, what it is about to do;
all go on together, or all raise the same error that names the ranks and the
difference. A rank that blocks in C++ all the same is freed by its watchdog.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from tfdist.coordination import progress
from tfdist.coordination.addresses import candidates
from tfdist.coordination.judge import Judge
from tfdist.coordination.ledger_base import Details, Ledger, checked_texts
from tfdist.coordination.ledger_base import NullLedger as NullLedger
from tfdist.coordination.limits import Limits, stall_limit
from tfdist.coordination.link import Link, connect
from tfdist.coordination.server import Server
from tfdist.coordination.watchdog import Pulse, Watchdog
from tfdist.coordination.wording import HINT_LOST, short
from tfdist.errors import RankLostError, StallError, TfdistError, explain

_BACKUP = 2.0  # seconds after which a silent server itself is the stall
_FAREWELL = 0.4  # seconds to say it; watchdog, link and server end within 2 s
_TOKEN_BYTES = 32
_APPOINTMENT = 60.0  # seconds that the ranks' link threads may take to agree on it


class JobLedger(Ledger):
    """The ledger of one rank among several; made by `start`.

    Args:
        rank: This process's rank.
        link: Its connection to the server.
        server: The server itself on rank 0, else None.
        limits: The time limits.
        unblock: See `start`.
    """

    def __init__(
        self,
        rank: int,
        link: Link,
        server: Server | None,
        limits: Limits,
        unblock: Callable[[], object] | None,
    ):
        self._link = link
        self._server = server
        self._limits = limits
        self._entry = 0
        self._activity = "has started"
        self._turn = threading.Lock()  # entries of several threads stay in order
        self._process = os.getpid()
        self._closed = False
        self._asked_to_stop = False
        self._watchdog = Watchdog(rank, limits, self._report, self.failure, unblock)
        atexit.register(self.close)

    def agree(
        self, what: str, details: Details | None = None, timeout: float | None = None
    ) -> None:
        """Posts the next entry and waits for its outcome; see `Ledger.agree`."""
        timeout = self._limits.agreement if timeout is None else timeout
        texts = checked_texts(what, details)
        digest = hashlib.sha256(
            json.dumps([what, texts], sort_keys=True).encode()
        ).hexdigest()
        with self._turn:
            self._raise_failure()
            if self._closed:
                raise TfdistError(
                    f"agree({what!r}) was called after this rank's ledger was closed.\n"
                    "HINT: Do not use a strategy while the process exits."
                )
            entry, self._entry = self._entry, self._entry + 1
            message = {
                "what": short(what),
                "digest": digest,
                "timeout": timeout,
                "activity": short(self._activity),
            }
            self._link.post(entry, message, texts)
            if not self._link.wait(entry, timeout + _BACKUP):
                self._link.decide(_silent_server(what, timeout))
            self._raise_failure()

    def look(self, stop: bool) -> bool:
        """Counts a look, and asks for the stop; see `Ledger.look`."""
        if stop and not self._asked_to_stop:
            self._asked_to_stop = True
            self._link.send({"stop": True})
        due = self._link.look(_APPOINTMENT)
        if due is None:
            self._link.decide(_silent_server("stop together", _APPOINTMENT))
            self._raise_failure()
        return bool(due)

    def activity(self, what: str) -> None:
        """Notes what this rank does now."""
        self._activity = what  # the watchdog's next sample carries it

    def failure(self) -> TfdistError | None:
        """Returns the verdict so far, or None."""
        return self._link.verdict()

    def diagnose(self, wait: float = 2.0) -> TfdistError | None:
        """Says why a collective failed; see `Ledger.diagnose`."""
        self._link.wait_for_news(wait)
        failure = self.failure()
        ended = self._link.ended()
        if failure is None and ended:
            who = "; ".join(f"rank {rank} {how}" for rank, how in ended.items())
            failure = RankLostError(f"{who}.{HINT_LOST}")
        return failure

    def close(self) -> None:
        """Announces this rank's end, once, and only in its own process."""
        if self._closed or os.getpid() != self._process:
            return  # a forked child must not say farewell for its parent
        self._closed = True
        atexit.unregister(self.close)
        self._watchdog.stop()
        self._link.close(_FAREWELL)
        if self._server is not None:
            self._server.stop(_FAREWELL)

    def _raise_failure(self) -> None:
        failure = self._link.verdict()
        if failure is not None:
            raise failure

    def _report(self, pulse: Pulse) -> None:
        watched = progress.installed()
        if watched is not None:
            watched.note_call(pulse.calls, pulse.blocked, pulse.idle)
        self._link.send(
            {
                "activity": short(self._activity),
                "calls": pulse.calls,
                "blocked": pulse.blocked,
                "idle": pulse.idle,
            }
        )


def start(
    rank: int,
    size: int,
    broadcast: Callable[[bytes], bytes],
    bind_address: str | None = None,
    timeout: float = 30.0,
    unblock: Callable[[], object] | None = None,
    stall_timeout: float | None = None,
    limits: Limits | None = None,
) -> Ledger:
    """Starts this rank's ledger; all ranks call it together.

    Args:
        rank: This process's rank.
        size: The number of processes.
        broadcast: Gives every rank the bytes that rank 0 passed; the others pass
            b"". Called once on every rank.
        bind_address: Where rank 0 listens. None means everywhere; "127.0.0.1" is
            right where all ranks share one host.
        timeout: Seconds to reach rank 0.
        unblock: Makes this process's pending collectives fail, such as
            `horovod.tensorflow.shutdown`.
        stall_timeout: Seconds without progress of any rank before a StallError;
            None means TFDIST_STALL_TIMEOUT, or 600.
        limits: The other time limits.

    Returns:
        The ledger; for one process a null object.

    Raises:
        TfdistError: The ranks cannot connect.
        ValueError: An argument is out of range.

    Example:
        ```python
        ledger = start(hvd.rank(), hvd.size(), broadcast, unblock=hvd.shutdown)
        ledger.agree("fit", {"steps per epoch": 100})
        ```
    """
    if not 0 <= rank < size:
        raise ValueError(
            explain(
                "The rank is out of range",
                received=f"rank={rank}, size={size}",
                expected="0 <= rank < size",
                hint="Pass hvd.rank() and hvd.size().",
            )
        )
    limits = replace(limits or Limits(), stall=stall_limit(stall_timeout))
    if size == 1:
        return NullLedger()
    server: Server | None = None
    offer: dict[str, object] = {}
    token = secrets.token_bytes(_TOKEN_BYTES)
    if rank == 0:
        try:
            judge = Judge(size, limits, time.monotonic())
            server = Server(size, token, bind_address, judge)
            offer = {
                "port": server.port,
                "token": token.hex(),
                "addresses": candidates(bind_address),
            }
        except OSError as error:  # the others wait for the broadcast: tell them
            offer = {"error": f"{bind_address or 'any address'}: {error}"}
    try:
        offer = json.loads(broadcast(json.dumps(offer).encode() if rank == 0 else b""))
        connection = _connect(offer, server, rank, timeout)
    except BaseException:
        if server is not None:
            server.stop(_FAREWELL)
        raise
    return JobLedger(rank, Link(connection, rank), server, limits, unblock)


def _connect(
    offer: dict[str, object], server: Server | None, rank: int, timeout: float
) -> socket.socket:
    if "error" in offer:
        raise TfdistError(
            explain(
                "Rank 0 cannot listen for the other ranks",
                received=offer["error"],
                expected="an address of rank 0's host",
                hint="Pass a bind_address that `ip address` shows on that host.",
            )
        )
    addresses = offer["addresses"]
    if not isinstance(addresses, list):
        raise TypeError(f"addresses must be a list. Received: {addresses!r}")
    if server is not None:
        addresses = addresses[::-1]  # itself: loopback first
    return connect(
        addresses,
        int(str(offer["port"])),
        bytes.fromhex(str(offer["token"])),
        rank,
        timeout,
    )


def _silent_server(what: str, timeout: float) -> StallError:
    return StallError(
        f"No outcome of '{short(what)}' came from rank 0 within {timeout:.0f} s: its "
        "process is stopped, or its host is unreachable.\n"
        "HINT: Look at rank 0's own output; if it is only slow, raise the timeout."
    )
