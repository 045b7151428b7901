"""The checkpoints of one run: a directory of steps, seen by one rank.

A step is written so that no crash can leave half of it:

1. every rank writes its file, syncs it, and then a note beside it with size and hash;
2. the chief waits for the notes of all ranks of this start of the job;
3. it writes `MANIFEST.json` under another name, syncs it, renames it, and syncs the
   folder. From this rename on the step exists; in an object store, from the PUT on.

Names of files carry the session, a number that each start of a job draws: what a killed
job left, or still writes, is never mixed with what this one writes.
"""

from __future__ import annotations

import json
import re
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from tfdist.checkpoint import lock
from tfdist.checkpoint import manifest as manifests
from tfdist.checkpoint.errors import CheckpointError, DamagedError, OccupiedError
from tfdist.checkpoint.files import publish, read_file
from tfdist.checkpoint.filesystem import FileSystem, LocalFileSystem
from tfdist.checkpoint.manifest import Manifest
from tfdist.checkpoint.retention import Best, Kept, choose_kept
from tfdist.checkpoint.tensors import Array, Written, read_tensors, write_tensors

_STEP = re.compile(r"step-(\d{8,18})")


@dataclass(frozen=True)
class Part:
    """What one rank hands in to be saved.

    Attributes:
        own: This rank's own arrays.
        common: The arrays that all ranks share; from the chief only.
        details: Plain JSON for the manifest, from the chief only: "epoch", "batch",
            "strategy", "versions", "metrics" (name -> number; see `Best`), ...
        own_details: This rank's own plain JSON.
    """

    own: Mapping[str, Array] = field(default_factory=dict)
    common: Mapping[str, Array] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    own_details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """A step that was read: all files have the size and hash of the manifest."""

    manifest: Manifest
    common: dict[str, Array]
    ranks: list[dict[str, Array]]  # of every rank of the job that saved it


@dataclass(frozen=True)
class Verified:
    """What a rank found in the directory."""

    steps: tuple[int, ...]  # newest first
    rejected: Mapping[int, str]  # step -> reason


class Store:
    """One directory of checkpoints of one run, seen by one rank."""

    def __init__(
        self,
        directory: str,
        *,
        rank: int = 0,
        size: int = 1,
        keep: int = 3,
        keep_every: int | None = None,
        keep_best: Best | None = None,
        run_id: str | None = None,
        timeout: float = 600.0,
        filesystem: FileSystem | None = None,
    ) -> None:
        self.directory = directory.rstrip("/")
        self.rank = rank
        self.size = size
        self.run_id = run_id
        self._keep = (keep, keep_every, keep_best)
        self._timeout = timeout
        self._files = filesystem or LocalFileSystem()
        self._session = ""
        self._saved: set[int] = set()
        self._aborted = threading.Event()

    def open(self, session: int | None = None) -> int:
        """Makes the directory ready, before the first step.

        The chief (rank 0) takes the lock and returns the session; every other rank is
        given the chief's session, and makes sure that it sees the same directory.
        """
        if self.rank == 0:
            session = lock.new_session()
            self._files.make_directory(self.directory)
            self.run_id = self.run_id or uuid.uuid4().hex
            self._session = lock.session_name(session)
            lock.write(
                self._files, self.directory, lock.Record(self.run_id, self._session)
            )
            return session
        self._session = lock.session_name(session or 0)
        record = lock.read(self._files, self.directory)
        if record is None or record.session != self._session:
            raise OccupiedError(f"rank {self.rank} does not see the chief's directory")
        self.run_id = record.run_id
        return session

    def steps(self) -> tuple[int, ...]:
        """Returns the steps that have a manifest, newest first; reads none of it."""
        return tuple(
            step
            for step in sorted(self._folders(), reverse=True)
            if manifests.NAME in self._files.names(self._folder(step))
        )

    def verify(self, step: int) -> str | None:
        """Returns why a step cannot be used, or None: reads and hashes all of it."""
        try:
            manifest = self.manifest(step)
            for name in manifest.files:
                self._read(step, name, manifest.files[name])
        except (DamagedError, OSError) as error:
            return str(error)
        return None

    def good_steps(self) -> Verified:
        """Verifies all steps."""
        reasons = {step: self.verify(step) for step in self.steps()}
        return Verified(
            tuple(step for step, reason in reasons.items() if reason is None),
            {step: reason for step, reason in reasons.items() if reason is not None},
        )

    def load(self, step: int) -> Checkpoint:
        """Returns a step, of which every byte has been verified."""
        manifest = self.manifest(step)
        found = {
            name: read_tensors(self._read(step, name, written), name)
            for name, written in manifest.files.items()
        }
        self._saved.add(step)
        return Checkpoint(
            manifest, found[manifest.common], [found[name] for name in manifest.ranks]
        )

    def save(self, step: int, part: Part) -> None:
        """Saves this rank's part; the chief commits the step.

        Every rank calls it, in any thread. A step that this store has saved or loaded
        already is left as it is.

        Returns:
            Once the step is committed (chief), or this rank's file durable (others).
        """
        if step in self._saved:
            return
        self._saved.add(step)
        folder = self._folder(step)
        self._files.make_directory(folder)
        name = self._rank_file(self.rank)
        own = write_tensors(self._files, f"{folder}/{name}", part.own)
        note = {"written": asdict(own), "details": dict(part.own_details)}
        publish(self._files, f"{folder}/{name}.json", json.dumps(note).encode())
        if self.rank == 0:
            self._commit(step, part)

    def close(self) -> None:
        """Lets go of the directory."""
        if self.rank == 0 and self._session:
            self._files.remove(f"{self.directory}/{lock.NAME}")
        self._session = ""

    def _commit(self, step: int, part: Part) -> None:
        folder = self._folder(step)
        common = f"common-{self._session}.safetensors"
        files = {common: write_tensors(self._files, f"{folder}/{common}", part.common)}
        notes = self._wait_for_notes(folder)
        for name, note in notes.items():
            written = note["written"]
            tensors = {k: (d, tuple(s)) for k, (d, s) in written["tensors"].items()}
            files[name] = Written(**{**written, "tensors": tensors})
        manifest = Manifest(
            run_id=self.run_id or "",
            session=self._session,
            step=step,
            world_size=self.size,
            time=time.time(),
            common=common,
            ranks=list(notes),
            files=files,
            finite=all(written.finite for written in files.values()),
            details=dict(part.details),
            own_details=[note["details"] for note in notes.values()],
        )
        publish(self._files, f"{folder}/{manifests.NAME}", manifests.encode(manifest))
        for name in notes:
            self._files.remove(f"{folder}/{name}.json")
        self._retain()

    def _wait_for_notes(self, folder: str) -> dict[str, dict[str, Any]]:
        expected = [self._rank_file(rank) for rank in range(self.size)]
        deadline = time.monotonic() + self._timeout
        while True:
            there = set(self._files.names(folder))
            missing = [name for name in expected if f"{name}.json" not in there]
            if not missing:
                break
            if time.monotonic() > deadline:
                raise CheckpointError(f"no file of {missing} after {self._timeout} s")
            self._aborted.wait(0.05)
        return {
            name: json.loads(
                read_file(self._files, f"{folder}/{name}.json", manifests.MAX_BYTES)
            )
            for name in expected
        }

    def _retain(self) -> None:
        there = {step: self.manifest(step) for step in self.steps()}
        facts = {
            step: Kept(each.finite, each.details.get("metrics") or {})
            for step, each in there.items()
        }
        for step in sorted(set(there) - choose_kept(facts, *self._keep)):
            self._delete(step)

    def _delete(self, step: int) -> None:
        folder = self._folder(step)
        self._files.remove(f"{folder}/{manifests.NAME}")
        for name in self._files.names(folder):
            self._files.remove(f"{folder}/{name}")
        self._files.remove_directory(folder)

    def manifest(self, step: int) -> Manifest:
        path = f"{self._folder(step)}/{manifests.NAME}"
        return manifests.decode(read_file(self._files, path, manifests.MAX_BYTES), path)

    def _read(self, step: int, name: str, written: Written) -> bytes:
        path = f"{self._folder(step)}/{name}"
        data = read_file(self._files, path, written.size)
        import hashlib

        if hashlib.sha256(data).hexdigest() != written.sha256:
            raise DamagedError(f"{path} does not have its hash")
        return data

    def _rank_file(self, rank: int) -> str:
        return f"rank-{rank:04d}-of-{self.size:04d}-{self._session}.safetensors"

    def _folder(self, step: int) -> str:
        return f"{self.directory}/step-{step:08d}"

    def _folders(self) -> list[int]:
        matches = map(_STEP.fullmatch, self._files.names(self.directory))
        return [int(match[1]) for match in matches if match]
