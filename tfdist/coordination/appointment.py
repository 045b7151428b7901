"""After which look all ranks stop: the agreement, without sockets and clocks.

A rank that has to end (its machine is taken away) cannot just save and leave: the
others would wait for it, and a checkpoint needs all ranks at the same step. So every
rank looks up at the same places of the training (the end of each batch, say) and counts
its looks, which costs nothing. A rank that has to end tells the server, which asks all
ranks how often they have looked. From its answer on, a rank waits at its next look, a
moment later, for the appointment: one look more than the largest answer, which nobody
can have passed.
"""

from __future__ import annotations

from tfdist.coordination.wire import Message

Outbox = list[tuple[int | None, Message]]  # (rank or None for all, message)


class Looks:
    """What one rank knows: its own looks, and the appointment."""

    def __init__(self) -> None:
        self._number = 0
        self._asked = False
        self._appointed: int | None = None

    def look(self) -> None:
        """Counts a look."""
        self._number += 1

    def answer(self) -> int:
        """Returns the number of looks; the next one waits for the appointment."""
        self._asked = True
        return self._number

    def appoint(self, number: int) -> None:
        """Takes the appointment."""
        self._appointed = number

    @property
    def due(self) -> bool | None:
        """Whether all ranks stop after this look; None is not known yet."""
        if self._appointed is not None:
            return self._number >= self._appointed
        return None if self._asked else False


class Appointment:
    """What the server knows: who has answered, and the appointment.

    Every method returns the messages to send. Whatever is said again, by signals that
    come twice or to several ranks, changes nothing.

    Args:
        size: The number of ranks.
    """

    def __init__(self, size: int) -> None:
        self._awaited = set(range(size))
        self._asked = False
        self._most = 0  # looks of any rank
        self._appointed: int | None = None

    def request(self) -> Outbox:
        """Takes a rank's wish to stop."""
        if self._asked:
            return []
        self._asked = True
        return [(None, {"ask": True})]

    def answer(self, rank: int, looks: int) -> Outbox:
        """Takes a rank's number of looks."""
        self._most = max(self._most, looks)
        return self._settle(rank)

    def join(self, rank: int) -> Outbox:
        """Takes that a rank has connected, which could not be asked before."""
        return [(rank, {"ask": True})] if self._asked else []

    def end(self, rank: int) -> Outbox:
        """Takes that a rank has ended, which will not answer."""
        return self._settle(rank)

    def _settle(self, rank: int) -> Outbox:
        self._awaited.discard(rank)
        if self._awaited or not self._asked or self._appointed is not None:
            return []
        self._appointed = self._most + 1
        return [(None, {"appointed": self._appointed})]
