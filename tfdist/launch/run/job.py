"""What the launcher knows of its ranks, and what follows from it. No sockets, no clock.

It is the referee of the launcher's server: all methods but `ask` run in the server's
thread.
"""

from __future__ import annotations

import base64
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tfdist.coordination.wire import Message, WireError
from tfdist.coordination.wording import name_ranks
from tfdist.launch.errors import FAILED
from tfdist.launch.run.endings import ENDING_SIGNALS

STALLED = 75  # the exit code of a job that stood still; EX_TEMPFAIL

_TEARDOWN = 5.0  # seconds from a script's failure to its exit
_SILENCE = 5.0  # seconds; every wrapper says something each second
_LOST = 12.0  # seconds of silence that need no failure of a peer beside them
_PAUSE = 5.0  # seconds without a tick: this process itself was stopped
_ANSWERS = 5.0  # seconds for all ranks to write their stacks
_FROM_OUTSIDE = (signal.SIGKILL, *ENDING_SIGNALS)
_LOST_HOST = "does not answer: its host is lost"


@dataclass(frozen=True)
class Verdict:
    """Why the job ends."""

    rank: int  # the first that failed
    code: int  # the job's exit code
    what: str  # what it did: "ended with exit code 3"
    reached: int | None = None  # its last complete step, if it ever told


@dataclass
class _Rank:
    host: str
    pid: int | None = None
    joined: bool = False
    left: bool = False
    ended: bool = False  # its process
    closed: bool = False  # nothing more will come
    steps: int = 0
    reached: int | None = None  # the last complete step of the run
    expected: bool = False  # another step should come
    changed: float = 0.0  # when the two did
    heard: float = 0.0  # when its last message came
    state: str | None = None  # the kernel's letter, when the stacks were asked for
    waiting: bool = False  # for other ranks, as its stacks say


class Job:
    """Finds the first rank that failed, or that the others wait for.

    Args:
        hosts: The name of each rank's host.
        stall_timeout: Seconds without a step; 0 for no limit.
        write: Called with a rank, the kind of a stream, what came from it, and
            whether it is for the user.
        record: Called with each rank's exit record.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        stall_timeout: float,
        write: Callable[[int, int, bytes, bool], None],
        record: Callable[[Message], None],
    ):
        self.verdict: Verdict | None = None
        self._ranks = [_Rank(host) for host in hosts]
        self._stall_timeout = stall_timeout
        self._write = write
        self._record = record
        self._outbox: list[tuple[int | None, Message]] = []
        self._requests: list[Message] = []  # of the main thread
        self._order: Message | None = None  # what ranks that join late are told, too
        self._failing: tuple[int, int, float] | None = None  # rank, code, since when
        self._inquiry: float | None = None  # when the stacks were asked for
        self._ticked = 0.0  # when anything last happened

    @property
    def missing(self) -> list[int]:
        """The ranks that have not connected."""
        return [n for n, rank in enumerate(self._ranks) if not rank.joined]

    @property
    def over(self) -> bool:
        """Whether every rank that runs, or that is still to come, has ended."""
        expected = [r for r in self._ranks if r.joined or self._order is None]
        # Of a lost host nothing will come, whatever its connection still promises.
        return all(
            rank.closed or rank.left or self._ticked > rank.heard + _LOST
            for rank in expected
        )

    @property
    def _blamed(self) -> int | None:
        if self.verdict is not None:
            return self.verdict.rank
        return None if self._failing is None else self._failing[0]

    def host(self, rank: int) -> str:
        """Returns the name of a rank's host."""
        return self._ranks[rank].host

    def ask(self, request: Message) -> None:
        """Ends all ranks: {"end": signal} or {"kill": True}; for the main thread."""
        self._requests.append(request)

    def take_outbox(self) -> list[tuple[int | None, Message]]:
        """Returns and forgets what is to be sent: (rank or None for all, message)."""
        outbox, self._outbox = self._outbox, []
        return outbox

    def join(self, rank: int, now: float) -> None:
        """Notes that a rank's wrapper has connected."""
        state = self._ranks[rank]
        state.joined, state.changed, state.heard = True, now, now
        if self._order is not None:
            self._outbox.append((rank, self._order))

    def leave(self, rank: int, now: float) -> None:
        """Notes that a rank's connection has ended."""
        state = self._ranks[rank]
        state.left = True
        if not state.closed:
            self._decide(rank, FAILED, "was lost: its wrapper or its host ended")

    def receive(self, rank: int, message: Message, now: float) -> None:
        """Takes a wrapper's message.

        Raises:
            WireError: It is malformed.
        """
        self._notice_pause(now)
        self._ranks[rank].heard = now
        try:
            self._note(rank, self._ranks[rank], message, now)
        except (KeyError, TypeError, ValueError) as error:
            raise WireError(f"malformed message: {error!r}") from None
        self.tick(now)

    def tick(self, now: float) -> None:
        """Looks again at what only the passing of time can decide."""
        self._notice_pause(now)
        while self._requests:
            self._give_order(self._requests.pop(0))
        if self._order is not None:
            return
        if self._failing is not None and now >= self._failing[2] + _TEARDOWN:
            rank, code, _ = self._failing
            self._decide(rank, code, _ending(code))
        elif (lost := self._silent(now, _LOST)) is not None:
            self._decide(lost, FAILED, _LOST_HOST)
        elif self._inquiry is None:
            self._find_stall(now)
        else:
            self._judge_stall(now)

    def _note(self, rank: int, state: _Rank, message: Message, now: float) -> None:
        if "host" in message:
            state.host, state.pid = str(message["host"]), int(message["pid"])
        if "out" in message:
            data = base64.b64decode(message["out"])
            # When another rank has failed, rank 0 only complains about the loss.
            shown = rank == 0 and self._blamed in (None, 0)
            self._write(rank, int(message["to"]), data, shown)
        if "steps" in message:
            news = int(message["steps"]), bool(message["expected"])
            if news != (state.steps, state.expected):
                state.changed = now
            state.steps, state.expected = news
        if "reached" in message:
            state.reached = int(message["reached"])
        if "state" in message:
            state.state, state.waiting = str(message["state"]), bool(message["waiting"])
        if "failed" in message:
            failing = rank, int(message["failed"]), now
            if self._failing is None and self._order is None:
                self._failing = failing
        if "exit" in message:
            self._note_exit(rank, state, int(message["exit"]), float(message["time"]))
            self._judge_exit(rank, int(message["exit"]), now)
        if "closed" in message:
            state.closed = True

    def _note_exit(self, rank: int, state: _Rank, code: int, time: float) -> None:
        state.ended = True
        ending = {"exit code": code} if code >= 0 else {"signal": -code}
        who = {"rank": rank, "host": state.host, "pid": state.pid}
        self._record({**who, **ending, "time": time})

    def _judge_exit(self, rank: int, code: int, now: float) -> None:
        if code == 0 or self._order is not None:
            return
        # A lost host says nothing; its peers may fail long before it is given up.
        lost = self._silent(now, _SILENCE)
        if lost is not None:
            self._decide(lost, FAILED, _LOST_HOST)
            return
        first, first_code, _ = self._failing or (rank, code, 0.0)
        # What a rank says may come of another's end, a signal from outside does not.
        if first == rank or -code in _FROM_OUTSIDE:
            first = rank
            first_code = code
        self._decide(first, exit_code(first_code), _ending(first_code))

    def _silent(self, now: float, seconds: float) -> int | None:
        """Returns the first rank that should be heard and is not."""
        for number, rank in enumerate(self._ranks):
            silent = now - rank.heard > seconds and not (rank.ended or rank.left)
            if silent and rank.joined:
                return number
        return None

    def _notice_pause(self, now: float) -> None:
        """Blames nobody for the time in which this process was stopped (Ctrl-Z)."""
        if now > self._ticked + _PAUSE:
            for rank in self._ranks:
                rank.heard = rank.changed = now
        self._ticked = now

    def _find_stall(self, now: float) -> None:
        for state in self._ranks:
            late = now - state.changed > self._stall_timeout > 0
            if late and state.expected and not state.ended:
                self._inquiry = now
                self._outbox.append((None, {"stacks": True}))
                return

    def _judge_stall(self, now: float) -> None:
        living = [n for n, rank in enumerate(self._ranks) if not rank.ended]
        if not living:  # to be asked has woken a stopped rank, and it has finished
            return
        answered = all(self._ranks[n].state is not None for n in living)
        if not answered and now < (self._inquiry or 0.0) + _ANSWERS:
            return
        guilty, why = self._guilty(living)
        since = max(now - self._ranks[n].changed for n in living)
        others = f" (as do {name_ranks(guilty[1:])})" if guilty[1:] else ""
        self._decide(
            guilty[0], STALLED, f"makes no step{others} since {since:.0f} s: {why}"
        )

    def _guilty(self, living: Sequence[int]) -> tuple[list[int], str]:
        """Returns the ranks that the others wait for, and the reason.

        In lock-step all ranks make equally many steps, so these tell nothing.
        """
        ranks = {number: self._ranks[number] for number in living}
        for test, why in (
            (lambda rank: rank.state == "T", "its process is stopped (SIGSTOP)"),
            (
                lambda rank: rank.state is None,
                "its wrapper or its host does not answer",
            ),
            (lambda rank: not rank.waiting, "the other ranks wait for it"),
        ):
            found = [number for number, rank in ranks.items() if test(rank)]
            if found and (len(found) < len(ranks) or why.startswith("its")):
                return found, why
        alone = len(self._ranks) == 1
        return list(ranks), "its step does not end" if alone else "all stand still"

    def _decide(self, rank: int, code: int, what: str) -> None:
        if self._order is None:
            reached = self._ranks[rank].reached
            self.verdict = Verdict(rank, exit_code(code), what, reached)
            self._give_order({"end": int(signal.SIGTERM)})

    def _give_order(self, order: Message) -> None:
        self._order = order
        self._outbox.append((None, order))


def exit_code(code: int) -> int:
    """Returns what a shell reports: 128 plus the signal's number, or the code."""
    return 128 - code if code < 0 else code


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
