"""Whole files, made of the few operations that a file system has."""

from __future__ import annotations

from tfdist.checkpoint.errors import DamagedError
from tfdist.checkpoint.filesystem import FileSystem


def publish(files: FileSystem, path: str, data: bytes) -> None:
    """Makes a file appear at once and whole, and durable with all others beside it.

    Where a rename is atomic: a temporary file, synced, renamed, and the folder synced.
    In an object store: one PUT.
    """
    target = f"{path}.tmp" if files.renames else path
    write_file(files, target, data)
    if files.renames:
        files.replace(target, path)
        files.sync_directory(path.rpartition("/")[0])


def write_file(files: FileSystem, path: str, data: bytes) -> None:
    """Writes a durable file; the folder's entry for it is not synced."""
    sink = files.create(path)
    try:
        sink.write(memoryview(data))
        sink.sync()
    except BaseException:
        sink.discard()
        raise
    sink.close()


def read_file(files: FileSystem, path: str, limit: int) -> bytes:
    """Returns a file's bytes.

    Raises:
        FileNotFoundError: There is none.
        DamagedError: It is larger than the limit, or shrinks while it is read.
    """
    source = files.open(path)
    try:
        if source.size > limit:
            raise DamagedError(f"{path} has {source.size} bytes, more than {limit}")
        data = bytearray(source.size)
        if source.read_into(memoryview(data)) < len(data):
            raise DamagedError(f"{path} is shorter than {len(data)} bytes")
        return bytes(data)
    finally:
        source.close()
