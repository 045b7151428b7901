"""Who waits for whom: decides when a meeting has taken place, or never will.

It lives in the chief's server thread. No sockets, no clock, no pytest.
"""

from __future__ import annotations

import math

from tfdist.coordination.wire import Message, WireError
from tfdist.coordination.wording import group, name_ranks, short

INSIDE = "run "  # what ranks post that are about to enter a test
MAX_TEXT = 12000  # characters of a failure; in UTF-8 it still fits into a line
_SHOWN_FAILURES = 8


class Umpire:
    """Collects what the ranks post, and tells all of them the outcome.

    Ranks post the entries 0, 1, 2, ... in step; an entry is met when all have posted
    it. Any disagreement, loss or silence ends the run for all.

    Args:
        size: The number of ranks.
        timeout: Seconds for one entry; 0 for any time.
        grace: Seconds for the others after one rank has failed.
    """

    def __init__(self, size: int, timeout: float, grace: float):
        self._size = size
        self._timeout = timeout or math.inf
        self._grace = grace
        self._entry = 0
        self._posts: dict[int, Message] = {}
        self._failures: list[Message] = []  # of this entry, the first one first
        self._failed_at = 0.0
        self._opened: float | None = None  # since when somebody may be stuck
        self._where = "the start"
        self._living: set[int] = set()
        self._finished = False
        self._outbox: list[tuple[int | None, Message]] = []

    def take_outbox(self) -> list[tuple[int | None, Message]]:
        """Returns and forgets what is to be sent: (rank or None for all, message)."""
        outbox, self._outbox = self._outbox, []
        return outbox

    def join(self, rank: int, now: float) -> None:
        """Notes that a rank has connected."""
        if self._opened is None:
            self._opened = now
        self._living.add(rank)

    def leave(self, rank: int, now: float) -> None:
        """Notes that a rank's connection has ended."""
        self._living.discard(rank)
        self._end(
            f"rank {rank} was lost in {self._where}: its process ended", stacks=False
        )

    def receive(self, rank: int, message: Message, now: float) -> None:
        """Takes a rank's message.

        Raises:
            WireError: The message is malformed.
        """
        try:
            if "failed" in message:
                self._note_failure(rank, message["failed"], now)
            if "post" in message and message["post"] == self._entry:
                self._posts[rank] = {
                    "what": str(message["what"]),
                    "code": int(message["code"]),
                }
                self._opened = now if self._opened is None else self._opened
            if "over" in message:
                self._finished = True
                self._outbox.append((None, {"over": True}))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise WireError(f"malformed message: {error!r}") from None
        self._review(now)

    def tick(self, now: float) -> None:
        """Looks again at what only the passing of time can decide."""
        if self._opened is None or self._finished:
            return
        missing = sorted(set(range(self._size)) - self._posts.keys())
        if self._failures and now - self._failed_at > self._grace:
            first = self._failures[0]["rank"]
            self._end(
                f"{name_ranks(missing)} did not end {self._where} within "
                f"{self._grace:.0f} s after rank {first} had failed",
                stacks=False,
            )
        elif now - self._opened > self._timeout:
            self._end(
                f"{name_ranks(missing)} did not end {self._where} within "
                f"{self._timeout:.0f} s; every rank's stacks are above",
                stacks=True,
            )

    def _note_failure(self, rank: int, failure: Message, now: float) -> None:
        if not self._failures:
            self._failed_at = now
        if len(self._failures) < _SHOWN_FAILURES:
            # Those after the first are mostly its consequences: one line each.
            text = "" if self._failures else str(failure["text"])[-MAX_TEXT:]
            self._failures.append(
                {
                    "rank": rank,
                    "when": short(str(failure["when"])),
                    "line": short(str(failure["line"]).partition("\n")[0]),
                    "text": text,
                }
            )

    def _review(self, now: float) -> None:
        if self._finished or len(self._posts) < self._size:
            return
        whats = {rank: post["what"] for rank, post in self._posts.items()}
        if len(set(whats.values())) > 1:
            self._end(f"the ranks are out of step: {group(whats)}", stacks=False)
            return
        self._outbox.append(
            (
                None,
                {
                    "met": self._entry,
                    "failures": self._failures,
                    "code": max(post["code"] for post in self._posts.values()),
                },
            )
        )
        inside = whats[0].startswith(INSIDE)
        self._where = whats[0].removeprefix(INSIDE) if inside else "its preparations"
        self._opened = now if inside else None
        self._entry += 1
        self._posts, self._failures = {}, []

    def _end(self, reason: str, stacks: bool) -> None:
        if not self._finished:
            self._finished = True
            message = {"end": reason, "failures": self._failures, "stacks": stacks}
            self._outbox.append((None, message))
