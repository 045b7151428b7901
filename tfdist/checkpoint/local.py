"""Checkpoints on a mounted file system."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tfdist.checkpoint.errors import DamagedError
from tfdist.checkpoint.filesystem import Sink, Source

EXCLUSIVE_SECONDS = 10.0
BLOCK = 1 << 20  # bytes; what goes directly is a multiple, as it is of disks' blocks

Data = TypeVar("Data")


class LocalFileSystem:
    """A mounted file system, on this machine or shared by several."""

    renames = True

    def make_directory(self, path: str, *, parents: bool = False) -> None:
        """Makes a folder for this user only, and its parents if asked; it may exist."""
        parent = os.path.dirname(path) or "."
        # os.makedirs would give its mode to the last folder alone.
        if parents and not os.path.isdir(parent):
            self.make_directory(parent, parents=True)
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            if not os.path.isdir(path):
                raise NotADirectoryError(errno.ENOTDIR, "not a folder", path) from None
        else:
            self.sync_directory(parent)

    def names(self, path: str) -> list[str]:
        """Returns what is in a folder, sorted; nothing if there is no such folder."""
        try:
            with _folder(path) as descriptor:
                return sorted(os.listdir(descriptor))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return []
            raise

    def create(self, path: str) -> Sink:
        """Starts a file, in the place of an old one."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        return _LocalSink(os.open(path, flags, 0o600))

    def open(self, path: str, *, cached: bool = True) -> Source:
        """Opens a regular file; a link, device or folder counts as damage.

        Raises:
            FileNotFoundError: There is none.
            DamagedError: It is something else than a file.
        """
        # Without O_NONBLOCK, opening a named pipe would wait for its other end.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(path, flags)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):
                raise DamagedError(f"{path} is no regular file") from error
            raise
        source = _LocalSource if cached else _DirectSource
        return source(descriptor, path)

    def replace(self, source: str, target: str) -> None:
        """Gives a file another name, in the place of an old one; atomic."""
        os.replace(source, target)

    def remove(self, path: str) -> None:
        """Removes a file; one that is gone already is no error."""
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass

    def remove_directory(self, path: str) -> None:
        """Removes a folder if it is there and empty."""
        try:
            os.rmdir(path)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENOTEMPTY):
                raise

    def sync_directory(self, path: str) -> None:
        """Returns when the names in a folder survive a loss of power."""
        with _folder(path) as descriptor:
            os.fsync(descriptor)

    @contextmanager
    def exclusive(self, path: str) -> Iterator[None]:
        """Keeps other processes out of such a block on the same folder, if it can.

        The kernel ends it with the process. Some network file systems have no such
        locks; there the block is entered all the same.

        Raises:
            TimeoutError: Another process stays in its block, stopped perhaps.
        """
        with _folder(path) as descriptor:
            end = time.monotonic() + EXCLUSIVE_SECONDS
            while not _locked(descriptor):
                if time.monotonic() > end:
                    raise TimeoutError(errno.ETIMEDOUT, "another process holds", path)
                time.sleep(0.01)
            yield


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF):
            raise
    return True


@contextmanager
def _folder(path: str) -> Iterator[int]:
    # A link would lead out of the directory.
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class _Direct:
    """A file whose bytes go past the kernel's cache wherever the disk can do that.

    Fresh pages of the cache cost training as much as the hash does (a write of 151 MB
    takes 83 ms from it with them, 29 without), and they drive its data out.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._plain = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        self._direct = getattr(os, "O_DIRECT", 0)  # not on macOS

    def move(self, how: Callable[[int, Data], int], data: Data, size: int) -> int:
        """Reads or writes so many bytes; returns how many it were."""
        if self._direct and size % BLOCK == 0:
            try:
                self._set(self._direct)
                return how(self._descriptor, data)
            except OSError as error:
                # Not this file system, or not at such an address or offset.
                if error.errno != errno.EINVAL:
                    raise
                self._direct = 0
        self._set(0)
        return how(self._descriptor, data)

    def _set(self, flag: int) -> None:
        fcntl.fcntl(self._descriptor, fcntl.F_SETFL, self._plain | flag)


class _LocalSink:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._direct = _Direct(descriptor)

    def write(self, data: memoryview) -> None:
        while data:
            data = data[self._direct.move(os.write, data, len(data)) :]

    def sync(self) -> None:
        os.fsync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)

    discard = close


class _LocalSource:
    def __init__(self, descriptor: int, path: str) -> None:
        self._descriptor = descriptor
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            os.close(descriptor)
            raise DamagedError(f"{path} is no regular file")
        self.size = facts.st_size

    def read_into(self, buffer: memoryview) -> int:
        filled = 0
        while filled < len(buffer):
            count = self._read(buffer[filled:])
            if not count:
                break
            filled += count
        return filled

    def _read(self, buffer: memoryview) -> int:
        return os.readv(self._descriptor, [buffer])

    def close(self) -> None:
        os.close(self._descriptor)


class _DirectSource(_LocalSource):
    """Reads whole pages into one of its own, and hands them out."""

    def __init__(self, descriptor: int, path: str) -> None:
        super().__init__(descriptor, path)
        self._direct = _Direct(descriptor)
        self._pages = memoryview(mmap.mmap(-1, BLOCK))
        self._ready = self._pages[:0]

    def _read(self, buffer: memoryview) -> int:
        if not self._ready:
            count = self._direct.move(os.readv, [self._pages], BLOCK)
            self._ready = self._pages[:count]
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count
