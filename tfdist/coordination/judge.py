"""The judgement: from what the ranks report to a verdict. No sockets, no clock.

The judge lives in rank 0's server thread. Every rank's agreement number k is
compared with the others'; the first provable disagreement, loss or silence is
the verdict, once and for all, and every rank is told the same text.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tfdist.coordination.appointment import Appointment
from tfdist.coordination.limits import Limits
from tfdist.coordination.wire import Message, WireError
from tfdist.coordination.wording import HINT_LOST, differences, group, name_ranks, short

_SHOWN_VERSIONS = 8  # different versions of an entry whose details are fetched
_VERDICT_TEXT = 8000  # characters; escaped they still fit into one line
_FRESH = 5.0  # seconds for which a report of being blocked is believed


@dataclass
class _Rank:
    activity: str = "has not connected yet"
    joined: bool = False
    ended: str = ""  # "has ended" or "was lost"; empty while it lives
    heard: float = 0.0  # when its last message came
    progress: float = 0.0  # when it last did something new
    calls: int = 0  # TensorFlow calls that its watchdog has told apart
    blocked: float = 0.0  # seconds inside one TensorFlow call, when last heard
    idle: float = 0.0  # seconds of these without any computation


@dataclass
class _Post:
    what: str
    digest: str
    time: float
    deadline: float
    details: dict[str, str] = field(default_factory=dict)
    complete: bool = False  # all parts of the details are here


class Judge:
    """Collects the reports of all ranks and finds the verdict.

    Args:
        size: The number of ranks.
        limits: The time limits.
        now: The current time in seconds; all times come from the same clock.
    """

    def __init__(self, size: int, limits: Limits, now: float):
        self.verdict: Message | None = None
        self._limits = limits
        self._ranks = [_Rank(heard=now, progress=now) for _ in range(size)]
        self._entry = 0
        self._posts: dict[int, _Post] = {}
        self._differ_since: float | None = None
        self._asked: list[int] | None = None  # ranks whose details are awaited
        self._outbox: list[tuple[int | None, Message]] = []
        self._appointment = Appointment(size)

    def take_outbox(self) -> list[tuple[int | None, Message]]:
        """Returns and forgets what is to be sent: (rank or None for all, message)."""
        outbox, self._outbox = self._outbox, []
        return outbox

    def is_connected(self, rank: int) -> bool:
        """Returns whether this rank has joined and not ended."""
        return self._ranks[rank].joined and not self._ranks[rank].ended

    def join(self, rank: int, now: float) -> None:
        """Notes that a rank has connected."""
        state = self._ranks[rank]
        state.joined, state.activity = True, "has started"
        state.heard = state.progress = now
        self._outbox += self._appointment.join(rank)
        if self.verdict:
            self._outbox.append((rank, self.verdict))

    def leave(self, rank: int, now: float) -> None:
        """Notes that a rank's connection has ended, announced or not."""
        if self._ranks[rank].ended:
            return
        self._end(rank, "was lost (its process died or its connection broke)", now)
        self._decide("RankLostError", f"Rank {rank} {self._epitaph(rank)}.{HINT_LOST}")

    def receive(self, rank: int, message: Message, now: float) -> None:
        """Takes a rank's message.

        Raises:
            WireError: The message is malformed.
        """
        state = self._ranks[rank]
        state.heard = now
        try:
            if "activity" in message:
                self._note_activity(state, str(message["activity"]), now)
            if "calls" in message:
                self._note_pulse(state, message, now)
            if "post" in message:
                self._note_post(rank, message, now)
            if "details" in message:
                self._note_details(rank, message)
            if "stop" in message:
                self._outbox += self._appointment.request()
            if "looks" in message:
                self._outbox += self._appointment.answer(rank, int(message["looks"]))
            if "bye" in message:
                self._end(rank, "has ended", now)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise WireError(f"malformed message: {error!r}") from None
        self.tick(now)

    def tick(self, now: float) -> None:
        """Looks again at what only the passing of time can decide."""
        if self.verdict is None:
            self._review(now)
        if self.verdict is None:
            self._find_stall(now)

    def _note_activity(self, state: _Rank, activity: str, now: float) -> None:
        if activity != state.activity:
            state.activity, state.progress = activity, now

    def _note_pulse(self, state: _Rank, message: Message, now: float) -> None:
        if message["calls"] != state.calls:
            state.calls, state.progress = int(message["calls"]), now
        state.blocked = float(message["blocked"])
        state.idle = float(message["idle"])

    def _note_post(self, rank: int, message: Message, now: float) -> None:
        if message["post"] != self._entry or self.verdict:
            return  # crossed with the verdict on its way
        self._posts[rank] = _Post(
            what=str(message["what"]),
            digest=str(message["digest"]),
            time=now,
            deadline=now + float(message["timeout"]),
        )
        self._ranks[rank].progress = now

    def _note_details(self, rank: int, message: Message) -> None:
        post = self._posts.get(rank)
        if post is None or message["details"] != self._entry:
            return
        part: dict[Any, Any] = message["part"]
        post.details.update((str(key), str(value)) for key, value in part.items())
        post.complete = bool(message["last"])

    def _end(self, rank: int, how: str, now: float) -> None:
        state = self._ranks[rank]
        state.ended, state.heard = how, now
        self._outbox.append((None, {"ended": rank, "text": self._epitaph(rank)}))
        self._outbox += self._appointment.end(rank)

    def _review(self, now: float) -> None:
        """Decides about the open entry, if it can be decided by now."""
        if not self._posts:
            return
        missing = [r for r in range(len(self._ranks)) if r not in self._posts]
        if len({(post.what, post.digest) for post in self._posts.values()}) > 1:
            self._compare(now, complete=not any(map(self.is_connected, missing)))
        elif not missing:
            self._outbox.append((None, {"agreed": self._entry}))
            self._entry += 1
            self._posts = {}
        else:
            self._judge_missing(missing, now)

    def _compare(self, now: float, complete: bool) -> None:
        """Finds the difference, after a short wait for everybody's version."""
        limit = self._limits.settle
        if self._differ_since is None:
            self._differ_since = now
        if not complete and now < self._differ_since + limit:
            return
        whats = {rank: post.what for rank, post in self._posts.items()}
        if len(set(whats.values())) > 1:
            self._decide_mismatch(group(whats))
            return
        # One rank of each version is asked for its details: the others' are equal.
        digests = {rank: post.digest for rank, post in self._posts.items()}
        if self._asked is None:
            first = {digest: rank for rank, digest in sorted(digests.items())[::-1]}
            self._asked = sorted(first.values())[:_SHOWN_VERSIONS]
            self._outbox += [(rank, {"tell": self._entry}) for rank in self._asked]
            self._differ_since = now
        told = {rank: self._posts[rank] for rank in self._asked}
        late = now >= self._differ_since + limit
        if late or all(post.complete for post in told.values()):
            versions = {
                rank: told[teller].details
                for teller in told
                for rank in digests
                if digests[rank] == digests[teller]
            }
            what = short(next(iter(whats.values())))
            text = differences(versions) or group(digests)
            self._decide_mismatch(f"in {what}:\n{text}")

    def _judge_missing(self, missing: list[int], now: float) -> None:
        waiting = name_ranks(self._posts)
        first = min(self._posts.values(), key=lambda post: post.time)
        waits = f"{waiting} waits to start '{short(first.what)}'"
        if len(self._posts) > 1:
            waits = waits.replace(" waits ", " wait ", 1)
        ended = [rank for rank in missing if self._ranks[rank].ended]
        waited = now - first.time
        elsewhere = [rank for rank in missing if self._is_elsewhere(rank, now)]
        if ended:
            who = "; ".join(f"rank {rank} {self._epitaph(rank)}" for rank in ended)
            self._decide("RankLostError", f"{who}; {waits}.{HINT_LOST}")
        elif waited >= self._limits.disagreement and elsewhere:
            who = "; ".join(
                f"rank {rank} has been inside '{short(self._ranks[rank].activity)}' "
                f"for {self._ranks[rank].blocked:.0f} s"
                for rank in elsewhere
            )
            self._decide_mismatch(f"{waits} alone, for {waited:.0f} s; {who}")
        elif now >= min(post.deadline for post in self._posts.values()):
            self._decide(
                "StallError",
                f"{waits} for {waited:.0f} s, but not all ranks came:\n"
                f"{self._silence(missing, now)}\n"
                "HINT: Look at these ranks' own output; if they are only slow, "
                "raise the timeout.",
            )

    def _is_elsewhere(self, rank: int, now: float) -> bool:
        """Whether it is blocked in a call that waits for the waiting ranks."""
        state = self._ranks[rank]
        fresh = state.joined and now - state.heard < _FRESH
        return fresh and state.idle >= self._limits.disagreement

    def _find_stall(self, now: float) -> None:
        limit = self._limits.stall
        living = [r for r, state in enumerate(self._ranks) if not state.ended]
        states = [self._ranks[rank] for rank in living]
        blocked = any(state.blocked >= limit for state in states)
        if blocked and all(now - state.progress >= limit for state in states):
            self._decide(
                "StallError",
                f"No rank made progress for {limit:.0f} s:\n"
                f"{self._silence(living, now)}\n"
                "HINT: Look at the ranks' own output; if one step may take longer, "
                "set TFDIST_STALL_TIMEOUT to more seconds.",
            )

    def _silence(self, ranks: list[int], now: float) -> str:
        return "\n".join(
            f"rank {rank}: last did '{short(self._ranks[rank].activity)}' "
            f"{now - self._ranks[rank].progress:.0f} s ago, last heard of "
            f"{now - self._ranks[rank].heard:.0f} s ago"
            for rank in ranks
        )

    def _epitaph(self, rank: int) -> str:
        state = self._ranks[rank]
        return f"{state.ended}, its last activity was '{short(state.activity)}'"

    def _decide_mismatch(self, text: str) -> None:
        self._decide(
            "RankMismatchError",
            f"The ranks disagree: {text}.\n"
            "HINT: Every rank must build the same model and call fit, evaluate and "
            "predict in the same order with the same arguments.",
        )

    def _decide(self, kind: str, text: str) -> None:
        if self.verdict is None:
            self.verdict = {"verdict": kind, "text": text[:_VERDICT_TEXT]}
            self._outbox.append((None, self.verdict))
