"""`LOCK`: one job at a time in a directory."""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, dataclass

from tfdist.checkpoint import files
from tfdist.checkpoint.filesystem import FileSystem

NAME = "LOCK"
MAX_BYTES = 1 << 16


@dataclass(frozen=True)
class Record:
    """Who holds a directory."""

    run_id: str
    session: str


def new_session() -> int:
    """Returns a number for one start of a job, from 1 to 2**31 - 1."""
    return secrets.randbelow(2**31 - 1) + 1


def session_name(session: int) -> str:
    """Returns a session as it stands in files: eight hexadecimal digits."""
    return f"{session:08x}"


def write(files_: FileSystem, directory: str, record: Record) -> None:
    """Writes the lock."""
    data = json.dumps(asdict(record)).encode()
    files.publish(files_, f"{directory}/{NAME}", data)


def read(files_: FileSystem, directory: str) -> Record | None:
    """Returns who holds a directory, or None."""
    try:
        data = files.read_file(files_, f"{directory}/{NAME}", MAX_BYTES)
        return Record(**json.loads(data))
    except (FileNotFoundError, ValueError, TypeError):
        return None
