"""Checkpoints in an object store, through fsspec: `gs://`, `s3://`, `memory://`, ...

An object appears whole or not at all when its writing ends, and is durable from then
on; there are no renames and no folders. So half of what `FileSystem` offers has nothing
to do here, and the appearance of the manifest is what commits a step.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

from tfdist.checkpoint.filesystem import Sink, Source
from tfdist.errors import explain

T = TypeVar("T")

_PAUSES = (0.1, 0.4, 1.6)  # seconds between attempts
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


class RemoteFileSystem:
    """An object store.

    Args:
        url: An address in it.

    Raises:
        ValueError: fsspec, or its package for this kind of address, is not installed.
    """

    renames = False

    def __init__(self, url: str) -> None:
        self._store = _open_store(url)

    def make_directory(self, path: str, *, parents: bool = False) -> None:
        """Does nothing: a folder is the beginning of objects' names."""

    def names(self, path: str) -> list[str]:
        """Returns what is in a folder, sorted, as the store has it now."""

        def look() -> list[str]:
            self._store.invalidate_cache()
            try:
                found = self._store.ls(self._inside(path), detail=False)
            except FileNotFoundError:
                return []
            return sorted({str(each).rstrip("/").rpartition("/")[2] for each in found})

        return again(look)

    def create(self, path: str) -> Sink:
        """Starts an object, in the place of an old one."""
        return _RemoteSink(self._store.open(self._inside(path), "wb"))

    def open(self, path: str, *, cached: bool = True) -> Source:
        """Opens an object; FileNotFoundError if there is none."""
        inside = self._inside(path)

        def start() -> Source:
            self._store.invalidate_cache()
            size = self._store.info(inside)["size"]
            return _RemoteSource(self._store.open(inside, "rb"), int(size))

        return again(start)

    def replace(self, source: str, target: str) -> None:
        """Raises: no store does this at once for all readers."""
        raise NotImplementedError("object stores have no atomic rename")

    def remove(self, path: str) -> None:
        """Removes an object; one that is gone already is no error."""

        def drop() -> None:
            try:
                self._store.rm_file(self._inside(path))
            except FileNotFoundError:
                pass

        again(drop)

    def remove_directory(self, path: str) -> None:
        """Does nothing: a folder ends with its last object."""

    def sync_directory(self, path: str) -> None:
        """Does nothing: what can be seen is durable."""

    def exclusive(self, path: str) -> AbstractContextManager[None]:
        """Keeps nobody out; whoever writes the lock has to look whether it stays."""
        return nullcontext()

    def _inside(self, url: str) -> str:
        return str(self._store._strip_protocol(url))


def again(operation: Callable[[], T]) -> T:
    """Returns what an operation returns; tries it again after errors that may pass.

    Only for what may be done twice: an object store answers "503, slow down" at times.
    """
    for pause in _PAUSES:
        try:
            return operation()
        except _FINAL:
            raise
        except OSError:
            time.sleep(pause)
    return operation()


def _open_store(url: str) -> Any:
    scheme = url.partition("://")[0]
    try:
        import fsspec

        return fsspec.core.url_to_fs(url)[0]
    except ImportError as error:
        raise ValueError(
            explain(
                f"{scheme}:// needs a package that is not installed",
                received=f"{url!r}: {error}",
                expected="fsspec and its package for this store: gcsfs for gs://, "
                "s3fs for s3://, adlfs for az://",
                hint="pip install 'tfdist[remote]' and that package.",
            )
        ) from error
    except ValueError as error:
        raise ValueError(
            explain(
                f"fsspec does not know {scheme}://",
                received=repr(url),
                expected="a folder, or an address such as gs://bucket/folder",
                hint="python -c 'import fsspec; print(fsspec.available_protocols())'",
            )
        ) from error


class _RemoteSink:
    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, data: memoryview) -> None:
        self._file.write(data)

    def sync(self) -> None:
        pass

    def close(self) -> None:
        self._file.close()

    def discard(self) -> None:
        # `close` would complete the object with what there is of it, and so would the
        # end of the file's life, unless it counts as closed.
        try:
            self._file.discard()
            self._file.closed = True
        except (AttributeError, OSError):
            pass


class _RemoteSource:
    def __init__(self, file: Any, size: int) -> None:
        self._file = file
        self.size = size

    def read_into(self, buffer: memoryview) -> int:
        filled = 0
        while filled < len(buffer):
            count = self._file.readinto(buffer[filled:])
            if not count:
                break
            filled += count
        return filled

    def close(self) -> None:
        self._file.close()
