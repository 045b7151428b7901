"""The checkpoints of one run: a directory of steps, seen by one rank.

A step is written so that no crash can leave half of it:

1. every rank writes its file, syncs it, and leaves a note beside it with size and hash;
2. the chief writes and syncs what all share, and waits for the notes of all ranks;
3. it writes `MANIFEST.json` under another name, syncs it, renames it, and syncs the
   folder. From this rename on the step is there; in an object store, from the PUT on.

Names of files carry the session, a number that each start of a job draws: what a killed
job has left, or still writes, is never mixed with what this one writes.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial

from tfdist.checkpoint import lock as locks
from tfdist.checkpoint.checks import check_rank, check_run_id, check_seconds, check_step
from tfdist.checkpoint.commit import commit
from tfdist.checkpoint.directory import Checkpoint, Directory
from tfdist.checkpoint.errors import DamagedError, OccupiedError
from tfdist.checkpoint.files import publish
from tfdist.checkpoint.filesystem import FileSystem
from tfdist.checkpoint.keeper import Keeper
from tfdist.checkpoint.manifest import Manifest
from tfdist.checkpoint.parts import Part, Saving, collect, hand_in
from tfdist.checkpoint.places import locate
from tfdist.checkpoint.retention import Best, Retention
from tfdist.checkpoint.sweep import sweep, sweep_probes, tidy
from tfdist.checkpoint.wording import explaining, not_shared, other_run

SEE_SECONDS = 10.0  # a network file system may show a new file that late


@dataclass(frozen=True)
class Verified:
    """What a rank found in the directory.

    Attributes:
        steps: Those of which it has read every byte, newest first.
        rejected: Why another one cannot be used.
    """

    steps: tuple[int, ...]
    rejected: Mapping[int, str]


class Store:
    """One directory of checkpoints of one run, seen by one rank.

    Every rank makes one with the same arguments, opens it (see `open`), saves its part
    of the same steps in the same order, and closes it.

    Args:
        directory: A folder of this run alone, the same on all ranks, or an address such
            as "gs://bucket/run" (extra: remote).
        rank: This process, from 0, the chief.
        size: The number of processes.
        keep: So many of the newest steps are kept.
        keep_every: Steps that are multiples of it are kept as well.
        keep_best: The best step by a metric is kept as well.
        run_id: The run's name; None takes that of the checkpoints that are there, or a
            new one.
        timeout: Seconds that the chief waits for the other ranks' parts of a step.
        finite_only: Whether to refuse a state with infinities or NaN. Otherwise it is
            saved, its manifest says so, and the last finite step is kept.
        filesystem: In the place of the directory's own.
        heartbeat: Seconds between the beats of the lock.

    Raises:
        TypeError: `directory` is no path.
        ValueError: An argument is out of range, or a package for this kind of address
            is missing.

    Example:
        >>> store = Store("runs/digits")
        >>> store.open()
        >>> store.save(100, Part(common={"dense/kernel": kernel}))
        >>> store.load(store.good_steps().steps[0]).common["dense/kernel"]
        >>> store.close()
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        rank: int = 0,
        size: int = 1,
        keep: int = 3,
        keep_every: int | None = None,
        keep_best: Best | None = None,
        run_id: str | None = None,
        timeout: float = 600.0,
        finite_only: bool = False,
        filesystem: FileSystem | None = None,
        heartbeat: float = locks.EVERY,
    ) -> None:
        check_rank(rank, size)
        check_run_id(run_id)
        check_seconds("timeout", timeout)
        check_seconds("heartbeat", heartbeat)
        own, path = locate(directory)
        self._files = filesystem or own
        self._directory = Directory(self._files, path)
        self._keeper = Keeper(self._directory, Retention(keep, keep_every, keep_best))
        self._lock = locks.Lock(self._files, path, every=heartbeat)
        self.timeout = timeout
        self._finite_only = finite_only
        self._session = ""  # while it is open
        self._done: set[int] = set()  # steps that this store has saved or loaded
        self._final: set[int] = set()  # those of them that nothing replaces any more
        self._aborted = threading.Event()
        self.path = path
        self.rank = rank
        self.size = size
        self.run_id = run_id

    def open(self, session: int | None = None) -> int:
        """Makes the directory ready, before the first step of training.

        Proves that it can be written. The chief also takes the lock, which one job at a
        time can have, and removes what a crash has left; it returns the number of this
        session, which every other rank is to be given here, so that it can make sure
        that it sees the same directory.

        Args:
            session: The chief's; None on the chief.

        Raises:
            ValueError: Another rank than the chief was given no session.
            CheckpointError: The directory cannot be used; `OccupiedError` if it is that
                of another run, or of another job that is running, `NewerFormatError` if
                a newer version of tfdist wrote it.
        """
        self._aborted.clear()
        if self.rank == 0:
            session = locks.new_session()
        elif not session:
            raise ValueError("Ranks other than 0 need the session that rank 0 returns.")
        opening = self._open_chief if self.rank == 0 else self._open_other
        with explaining(f"The directory {self.path} cannot be used", self.path):
            opening(locks.session_name(session))
        return session

    def steps(self) -> tuple[int, ...]:
        """Returns the steps that have a manifest, newest first; none is read."""
        with explaining(f"The directory {self.path} cannot be read", self.path):
            return self._directory.steps()

    def manifest(self, step: int) -> Manifest:
        """Returns what a step consists of; its files are not read.

        Raises:
            DamagedError: The manifest is none.
        """
        return self._directory.manifest(step)

    def verify(self, step: int, *, together: bool = False) -> str | None:
        """Returns why a step cannot be used, or None: reads and hashes all of it.

        Args:
            step: The step.
            together: Whether all ranks verify it, each what all share and its part of
                their own files; it is good if all say so.
        """
        share = (self.rank, self.size) if together else (0, 1)
        reason = self._directory.verify(step, self.run_id, share, cached=True)
        if reason is not None or not together:
            self._keeper.judge(step, reason)
        return reason

    def good_steps(self) -> Verified:
        """Verifies all steps."""
        reasons = {step: self.verify(step) for step in self.steps()}
        return Verified(
            tuple(step for step, reason in reasons.items() if reason is None),
            {step: reason for step, reason in reasons.items() if reason is not None},
        )

    def load(self, step: int, ranks: Collection[int] | None = None) -> Checkpoint:
        """Returns a step, of which every byte is the one that was saved.

        Args:
            step: The step.
            ranks: Whose own files to read, where the ranks have verified it together;
                None reads all.

        Raises:
            CheckpointError: It cannot be read, or is damaged (`DamagedError`).
        """
        try:
            found = self._directory.load(step, ranks)
        except OSError as error:
            raise DamagedError(f"step {step} cannot be read: {error}") from error
        self._keeper.judge(step, None)
        self._done.add(step)
        return found

    def save(self, step: int, part: Part) -> None:
        """Saves this rank's part of a step; the chief commits the step.

        Every rank calls it, in any thread, one step after the other. A step that this
        store has saved or loaded is left as it is, unless the part replaces it, which
        one may. That, or one of an earlier session, is replaced at the moment when the
        new one is there.

        Returns:
            Once the step is committed (chief), or this rank's part durable (others).

        Raises:
            ValueError: The step, a name, a dtype or the plain data cannot be written.
            CheckpointError: A file cannot be written, or a rank's part is missing. What
                was there before is there still.
        """
        check_step(step)
        if not self._session:
            raise RuntimeError("The store is not open.\nHINT: Call open() before.")
        again = step in self._done
        if step in self._final or (again and not part.replaces):
            return
        saving = Saving(
            directory=self._directory,
            session=self._session,
            step=step,
            rank=self.rank,
            size=self.size,
            finite_only=self._finite_only,
            again=again,
        )
        with explaining(f"Step {step} could not be saved", self.path):
            manifest = self._save(saving, part)
        self._done.add(step)
        if part.replaces:
            self._final.add(step)
        if manifest is not None:
            self._retain(manifest)

    def abort(self) -> None:
        """Ends a `save` that waits for other ranks; for a job that has failed."""
        self._aborted.set()

    def close(self) -> None:
        """Gives the directory back; not while a `save` is on its way."""
        self._session = ""
        try:
            self._lock.release()
        except OSError:
            pass  # the next job sees that this process has ended

    def _open_chief(self, session: str) -> None:
        self._files.make_directory(self.path, parents=True)
        self._probe(session)
        known = self._known_steps()
        held = locks.read_lock(self._files, self.path)
        newest = known[0].run_id if known else held.run_id if held else None
        if self.run_id is not None and newest not in (None, self.run_id):
            raise OccupiedError(other_run(self.path, self.run_id, newest))
        self.run_id = self.run_id or newest or uuid.uuid4().hex
        self._lock.acquire(self.run_id, session)
        try:
            sweep_probes(self._directory)
            sweep(self._directory)
        except BaseException:
            self._lock.release()
            raise
        for manifest in known:
            if manifest.run_id == self.run_id:
                self._keeper.add(manifest)
        self._session = session

    def _open_other(self, session: str) -> None:
        end = time.monotonic() + SEE_SECONDS
        while True:
            self._files.names(self.path)  # makes a network file system look again
            held = locks.read_lock(self._files, self.path)
            if held is not None and held.session == session:
                break
            if time.monotonic() > end:
                raise OccupiedError(not_shared(self.path, self.rank))
            time.sleep(0.05)
        self._probe(f"{session}-{self.rank}")
        self.run_id = held.run_id
        self._session = session

    def _probe(self, name: str) -> None:
        """Makes sure that a file can be written, synced and removed."""
        path = f"{self.path}/probe-{name}"
        publish(self._files, path, b"written to see whether it can be\n")
        self._files.remove(path)

    def _known_steps(self) -> list[Manifest]:
        """Returns all manifests that are whole, newest first."""
        found = []
        for step in self.steps():
            try:
                found.append(self._directory.manifest(step))
            except (DamagedError, FileNotFoundError):
                continue
        return found

    def _save(self, saving: Saving, part: Part) -> Manifest | None:
        """Returns what the chief has committed; None on another rank."""
        if self.rank != 0:
            hand_in(saving, part)
            return None
        collecting = partial(collect, saving, self.timeout, self._aborted)
        return commit(saving, part, self.run_id or "", self._lock, collecting)

    def _retain(self, manifest: Manifest) -> None:
        problem = (
            f"Step {manifest.step} was saved, but not all of what is older could be "
            "removed"
        )
        with explaining(problem, self.path):
            tidy(self._directory, manifest)
            self._keeper.add(manifest)
            self._keeper.retain(manifest.step)
