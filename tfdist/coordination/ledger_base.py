"""What every rank may ask of the ledger, and the ledger of a rank without others."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from tfdist.errors import TfdistError

Details = Mapping[str, str | int]


class Ledger(ABC):
    """What every rank knows of the others."""

    @abstractmethod
    def agree(
        self, what: str, details: Details | None = None, timeout: float | None = None
    ) -> None:
        """Returns once every rank has posted the same entry.

        All ranks call it equally often and in the same order.

        Args:
            what: What this rank is about to do, such as "fit".
            details: What must be equal on all ranks, such as names and shapes.
            timeout: Seconds to wait for the slowest rank; None means 300, or the
                stall timeout where that is longer.

        Raises:
            RankMismatchError: Two ranks posted different entries, or a rank is
                blocked in a collective that the waiting ranks are not in.
            RankLostError: A rank ended before it posted.
            StallError: A rank did not post within `timeout`.
            TypeError: `what` is no text, or a detail is neither text nor integer.
        """

    @abstractmethod
    def look(self, stop: bool) -> bool:
        """Returns whether all ranks stop here; the same on all of them.

        All ranks call it at the same places of the training, equally often. It costs
        no communication, until some rank has to stop; then, once, the round trip of
        one message.

        Args:
            stop: Whether this rank has to stop soon.

        Raises:
            RankLostError: A rank ended before the place to stop was agreed on.
            StallError: Rank 0 stays silent.
        """

    @abstractmethod
    def activity(self, what: str) -> None:
        """Notes what this rank does now, for messages; costs nothing."""

    @abstractmethod
    def failure(self) -> TfdistError | None:
        """Returns the verdict so far, or None; never waits."""

    @abstractmethod
    def diagnose(self, wait: float = 2.0) -> TfdistError | None:
        """Says why a collective failed, right after it raised in C++.

        When a rank ends, or its watchdog aborts, Horovod makes the pending
        collectives of all other ranks fail with a text that names nobody.

        Args:
            wait: Seconds to wait for the news, which may arrive after the failure.

        Returns:
            The verdict, a RankLostError for ranks that have ended, or None if the
            ledger knows no reason.
        """

    @abstractmethod
    def close(self) -> None:
        """Announces this rank's normal end; may be repeated.

        Takes at most 2 s; after an abort, as long as `unblock` takes, at most 10 s.
        """


class NullLedger(Ledger):
    """The ledger of a job of one process, which always agrees."""

    def agree(
        self, what: str, details: Details | None = None, timeout: float | None = None
    ) -> None:
        """Checks the arguments, as it would among several ranks."""
        checked_texts(what, details)
        del timeout

    def look(self, stop: bool) -> bool:
        """Agrees with itself."""
        return stop

    def activity(self, what: str) -> None:
        """Needs no note."""
        del what

    def failure(self) -> TfdistError | None:
        """Never fails."""
        return None

    def diagnose(self, wait: float = 2.0) -> TfdistError | None:
        """Knows no reason."""
        del wait
        return None

    def close(self) -> None:
        """Has nothing to close."""


def checked_texts(what: object, details: Details | None) -> dict[str, str]:
    """Checks the arguments of `agree`; returns the details as texts."""
    if not isinstance(what, str):
        raise TypeError(
            f"what must be a str. Received: {what!r}.\nHINT: Pass a text like 'fit'."
        )
    for key, value in (details or {}).items():
        if not isinstance(key, str) or not isinstance(value, str | int):
            raise TypeError(
                "details must map str to str or int. "
                f"Received: {key!r}: {value!r}.\nHINT: Pass str(...) of other values."
            )
    return {key: str(value) for key, value in (details or {}).items()}
