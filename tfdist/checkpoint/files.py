"""Whole files, made of the few operations that a file system has."""

from __future__ import annotations

from tfdist.checkpoint.errors import DamagedError
from tfdist.checkpoint.filesystem import FileSystem
from tfdist.checkpoint.remote import again

TEMPORARY = ".tmp"


def publish(files: FileSystem, path: str, data: bytes, *, durable: bool = True) -> None:
    """Makes a small file appear at once and whole, in the place of an old one.

    Where a rename is atomic: a temporary file, synced, renamed, and the folder synced.
    In an object store: one PUT, again if the store was busy.

    Args:
        files: The file system.
        path: The file.
        data: Its content.
        durable: Whether it must survive a loss of power, and with it all names in its
            folder. Where not, nothing is synced.
    """
    if not files.renames:
        return again(lambda: _write(files, path, data, durable))
    _write(files, path + TEMPORARY, data, durable)
    files.replace(path + TEMPORARY, path)
    if durable:
        files.sync_directory(path.rpartition("/")[0])


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


def _write(files: FileSystem, path: str, data: bytes, durable: bool) -> None:
    sink = files.create(path)
    try:
        sink.write(memoryview(data))
        if durable:
            sink.sync()
    except BaseException:
        sink.discard()
        raise
    sink.close()
