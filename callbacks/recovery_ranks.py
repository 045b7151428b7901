"""What all ranks do together around a store of checkpoints, and what they agree on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, TypeVar

from tfdist import cluster
from tfdist.checkpoint.errors import CheckpointError, DamagedError
from tfdist.checkpoint.manifest import Manifest
from tfdist.checkpoint.store import Checkpoint, Store
from tfdist.errors import explain
from tfdist.strategies.training import KerasTraining

_Result = TypeVar("_Result")
# Tells from a manifest which ranks' own files this process reads; None: all.
Needed = Callable[[Manifest], Collection[int] | None]

_NONE = -1  # no step


class Ranks:
    """The processes of a job, as far as recovery needs them.

    Args:
        strategy: The model's strategy; without one of tfdist there is one process.
        timeout: Seconds to wait for a rank that does more than the others.
    """

    def __init__(self, strategy: Any, timeout: float = 300.0) -> None:
        self._strategy = strategy if isinstance(strategy, KerasTraining) else None
        self._timeout = timeout

    def agree(self, what: str, details: dict[str, Any]) -> None:
        """Waits for all ranks, or raises what they disagree on."""
        if self._strategy is not None:
            self._strategy.agree(what, details)

    def stops(self, wanted: bool) -> bool:
        """Returns whether all ranks stop here, as one of them wants to."""
        return wanted if self._strategy is None else self._strategy.stops(wanted)

    def gather(self, value: int) -> list[int]:
        """Returns the integers that the ranks pass, in order."""
        if self._strategy is None or cluster.size() == 1:
            return [value]
        return self._strategy.gather_integers(value)

    def of_chief(self, value: int) -> int:
        """Returns the integer that the chief passes."""
        return self.gather(value)[0]

    def together(self, what: str, action: Callable[[], _Result]) -> _Result:
        """Returns the action's result, or raises on all ranks if it fails on one.

        Args:
            what: What is being done, as the beginning of a sentence.
            action: Called on each rank; communicates with none.

        Raises:
            CheckpointError: It has failed on another rank.
            TfdistError: Another rank has not come; it is named.
            Exception: It has failed on this one.
        """
        error: Exception | None = None
        result: Any = None
        try:
            result = action()
        except Exception as problem:  # raised below, when all ranks know
            error = problem
        # A disk may be slow: collectives would wait for 30 s (Gloo), and name nobody.
        if self._strategy is not None and cluster.size() > 1:
            self._strategy.agree(what, timeout=self._timeout)
        failed = self.gather(int(error is not None))
        if error is not None:
            raise error
        if any(failed):
            raise CheckpointError(
                explain(
                    f"{what} failed on another rank",
                    received=f"an error on rank {failed.index(1)}",
                    expected="none on any rank",
                    hint="Its own log tells it.",
                )
            )
        return result


def open_together(ranks: Ranks, store: Store) -> None:
    """Opens the directory: the chief locks it, the others make sure they see it.

    Raises:
        CheckpointError: It cannot be written, belongs to another job or run, or is not
            one directory that all ranks share.
    """
    what = f"Opening {store.path}"
    chief = cluster.is_chief()
    session = ranks.together(what, lambda: store.open() if chief else 0)
    session = ranks.of_chief(session)
    ranks.together(what, lambda: session if chief else store.open(session))


def newest_common(
    ranks: Ranks,
    store: Store,
    needed: Needed = lambda manifest: None,
) -> tuple[Checkpoint | None, dict[int, str]]:
    """Returns the newest step that all ranks can use, and why newer ones were not.

    Every rank verifies its part of what it proposes, so that no file is read by all but
    the one that all need; the smallest proposal is the next bound, until all propose
    the same. Steps that hold infinities or NaN are the last resort.

    Args:
        ranks: The processes.
        store: The directory.
        needed: What this process reads of it.

    Raises:
        CheckpointError: Some ranks see checkpoints and others none, so that a fresh
            start would throw away what is there.
    """
    candidates = ranks.together("Looking for checkpoints", lambda: _Candidates(store))
    for finite in (True, False):
        step = _settled(ranks, candidates, finite)
        if step is not None:
            read = partial(_read, store, step, needed)
            loaded = ranks.together("Reading a checkpoint", read)
            return loaded, candidates.reasons(step)
    seen = ranks.gather(len(candidates.steps))
    if any(seen) and not all(seen):
        raise CheckpointError(
            explain(
                f"Not all ranks see the same checkpoints in {store.path}",
                received=f"none on rank {seen.index(0)}, {max(seen)} elsewhere",
                expected="one directory that all hosts share",
                hint="Put it on a shared file system; or remove what is there on every "
                "host to start anew.",
            )
        )
    return None, candidates.reasons(_NONE)


def _read(store: Store, step: int, needed: Needed) -> Checkpoint:
    return store.load(step, needed(store.manifest(step)))


def _settled(ranks: Ranks, candidates: _Candidates, finite: bool) -> int | None:
    """Returns the newest step that every rank has verified, if there is one."""
    bound: int | None = None
    while bound != _NONE:
        proposals = ranks.gather(
            ranks.together(
                "Verifying a checkpoint", partial(candidates.newest, bound, finite)
            )
        )
        bound = min(proposals)
        if bound == max(proposals) != _NONE:
            return bound
        candidates.pass_over(bound, f"rank {proposals.index(bound)} has no good one")
    return None


class _Candidates:
    """The steps that one rank sees, and what it knows of them."""

    def __init__(self, store: Store) -> None:
        self.steps = store.steps()
        self._store = store
        self._verified: set[int] = set()
        self._damaged: set[int] = set()
        self._reasons: dict[int, str] = {}

    def newest(self, at_most: int | None, finite: bool) -> int:
        """Returns the newest good step; `_NONE` if there is none."""
        for step in self.steps:
            if at_most is not None and step > at_most:
                continue
            if self._is_good(step) and (not finite or self._is_finite(step)):
                return step
        return _NONE

    def pass_over(self, bound: int, reason: str) -> None:
        """Notes why good steps above a bound are not used."""
        for step in self.steps:
            if step > bound and step not in self._reasons:
                # What another rank has found in its part, the chief has to tell.
                found = self._store.verify(step) if self._store.rank == 0 else None
                self._reasons[step] = found or reason

    def reasons(self, used: int) -> dict[int, str]:
        """Returns why newer steps than the one that is used are not."""
        return {step: why for step, why in self._reasons.items() if step > used}

    def _is_good(self, step: int) -> bool:
        if step not in self._verified:
            self._verified.add(step)
            self._refuse_newer(step)
            reason = self._store.verify(step, together=True)
            if reason is not None:
                self._damaged.add(step)
                self._reasons[step] = reason
        return step not in self._damaged

    def _refuse_newer(self, step: int) -> None:
        """Raises CheckpointError if a newer version of tfdist has written a step."""
        with contextlib.suppress(DamagedError, OSError):  # reasons to pass over it
            self._store.manifest(step)

    def _is_finite(self, step: int) -> bool:
        finite = self._store.manifest(step).finite
        if not finite:
            self._reasons.setdefault(step, "it holds infinities or NaN")
        return finite
