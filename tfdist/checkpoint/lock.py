"""`LOCK`: one job at a time in a directory.

The file names the process that holds the directory and is written anew every few
seconds, with one more beat counted. Whether a lock is that of a dead job is not asked
of any clock: on the same machine its process is looked for; else its beats are watched
for as long as five of them take.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from dataclasses import asdict, dataclass, replace

from tfdist.checkpoint.errors import CheckpointError, DamagedError, OccupiedError
from tfdist.checkpoint.files import publish, read_file
from tfdist.checkpoint.filesystem import FileSystem
from tfdist.checkpoint.owner import Owner, is_running, this_process
from tfdist.checkpoint.plain import decode_json
from tfdist.errors import explain

NAME = "LOCK"
EVERY = 2.0  # seconds between beats
MISSED = 5  # beats after which a job on another machine counts as dead

_MAX_BYTES = 1 << 16
_MAX_EVERY = 60.0  # of a stranger's lock


@dataclass(frozen=True)
class Record:
    """What a lock says.

    Attributes:
        run_id: The run.
        session: The start of the job.
        owner: The chief's process.
        every: Seconds between beats.
        beat: Beats so far.
    """

    run_id: str
    session: str
    owner: Owner
    every: float = EVERY
    beat: int = 0


class Lock:
    """Holds a directory for this process, from `acquire` to `release`.

    Args:
        files: The directory's file system.
        directory: Its path.
        every: Seconds between beats.
    """

    def __init__(
        self, files: FileSystem, directory: str, *, every: float = EVERY
    ) -> None:
        self._files = files
        self._directory = directory
        self._path = f"{directory}/{NAME}"
        self._every = every
        self._record: Record | None = None
        self._ended = threading.Event()
        self._beats: threading.Thread | None = None

    def acquire(self, run_id: str, session: str) -> None:
        """Takes the lock: at once if it is free, or that of a process that has ended.

        A lock of this very process is taken over too; who held it is told so by its
        next `check`. That is how a notebook goes on after an exception.

        Raises:
            OccupiedError: Another job has it.
            OSError: It cannot be written.
        """
        seen = self._read()
        if seen is not None and self._is_alive(seen):
            raise OccupiedError(_occupied(self._directory, seen))
        record = Record(run_id, session, this_process(), self._every)
        with self._files.exclusive(self._directory):
            now = self._read()
            if now not in (None, seen):
                raise OccupiedError(_occupied(self._directory, now))
            self._write(record)
        self._record = record
        self.check()
        self._ended = threading.Event()
        self._beats = threading.Thread(
            target=self._beat, name="tfdist-checkpoint-lock", daemon=True
        )
        self._beats.start()

    def check(self) -> None:
        """Makes sure that the directory is still this job's.

        Raises:
            OccupiedError: Another job has it now.
            CheckpointError: The lock is gone, and probably the directory.
        """
        now = self._read()
        if self._record is None or now is None:
            raise CheckpointError(
                explain(
                    f"The directory {self._directory} was removed or emptied",
                    received=f"no {NAME} in it",
                    expected=f"the {NAME} of this job, as it was left",
                    hint="Leave it alone while the job runs; start the job again.",
                )
            )
        if now.session != self._record.session:
            raise OccupiedError(_occupied(self._directory, now))

    def release(self) -> None:
        """Gives the directory back, if it is still this job's."""
        self._ended.set()
        if self._beats is not None:
            self._beats.join(self._every)
        record, self._record = self._record, None
        if record is None:
            return
        with self._files.exclusive(self._directory):
            now = self._read()
            if now is not None and now.session == record.session:
                self._files.remove(self._path)

    def _is_alive(self, seen: Record) -> bool:
        if seen.owner == this_process():
            return False
        running = is_running(seen.owner)
        return self._watch(seen) if running is None else running

    def _watch(self, seen: Record) -> bool:
        """Returns whether a lock changes within the time of five beats."""
        every = min(seen.every, _MAX_EVERY)
        end = time.monotonic() + MISSED * every
        while time.monotonic() < end:
            time.sleep(every / 4)
            now = self._read()
            if now != seen:
                return now is not None
        return False

    def _beat(self) -> None:
        while not self._ended.wait(self._every) and self._record is not None:
            try:
                with self._files.exclusive(self._directory):
                    self.check()
                    self._record = replace(self._record, beat=self._record.beat + 1)
                    self._write(self._record)
            except CheckpointError:
                return  # the next save says it
            except OSError:
                continue  # a disk may come back; whoever takes over meanwhile is seen

    def _read(self) -> Record | None:
        return read_lock(self._files, self._directory)

    def _write(self, record: Record) -> None:
        data = json.dumps(asdict(record)).encode()
        publish(self._files, self._path, data, durable=False)


def new_session() -> int:
    """Returns a number for one start of a job, from 1 to 2**31 - 1."""
    return secrets.randbelow(2**31 - 1) + 1


def session_name(session: int) -> str:
    """Returns a session as it stands in files: eight hexadecimal digits."""
    return f"{session:08x}"


def read_lock(files: FileSystem, directory: str) -> Record | None:
    """Returns what the lock of a directory says; None if there is none, or nonsense."""
    try:
        data = read_file(files, f"{directory}/{NAME}", _MAX_BYTES)
        fields = decode_json(data, NAME)
        record = Record(**{**fields, "owner": Owner(**fields["owner"])})
    except (FileNotFoundError, NotADirectoryError, DamagedError, KeyError, TypeError):
        return None
    return record if _is_record(record) else None


def _is_record(record: Record) -> bool:
    owner = record.owner
    return (
        all(isinstance(each, str) for each in (record.run_id, record.session))
        and all(isinstance(each, str) for each in (owner.host, owner.machine))
        and isinstance(owner.started, str)
        and type(owner.process) is int
        and isinstance(record.every, int | float)
        and record.every > 0
    )


def _occupied(directory: str, holder: Record) -> str:
    return explain(
        f"The directory {directory} belongs to another job that is running",
        received=f"the lock of {holder.owner}, run {holder.run_id}",
        expected="one job a directory",
        hint="Wait for that job or end it, or choose another directory.",
    )
