"""The one object through which checkpoints reach a disk.

Few operations, each of them one that can fail or be interrupted: a test that wraps this
object can count them, stop before, within and after each, and let each fail.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from tfdist.checkpoint.errors import DamagedError


class Sink(Protocol):
    """A new file that is being written."""

    def write(self, data: memoryview) -> None:
        """Appends all of the bytes."""

    def sync(self) -> None:
        """Returns when what was written survives a loss of power."""

    def close(self) -> None:
        """Ends the file; in an object store it appears only now."""

    def discard(self) -> None:
        """Ends a file whose writing failed; in an object store it never appears."""


class Source(Protocol):
    """A file that is being read."""

    size: int

    def read_into(self, buffer: memoryview) -> int:
        """Fills the buffer from where reading stands; returns how much there was."""

    def close(self) -> None:
        """Ends reading."""


class FileSystem(Protocol):
    """Files and folders by path, with `/` between names."""

    @property
    def renames(self) -> bool:
        """Whether `replace` is atomic; else it is a file's close that is."""

    def make_directory(self, path: str) -> None:
        """Makes a folder and its parents where they are missing, for this user only."""

    def names(self, path: str) -> list[str]:
        """Returns what is in a folder, sorted; nothing if there is no such folder."""

    def create(self, path: str) -> Sink:
        """Starts a file, in the place of an old one."""

    def open(self, path: str) -> Source:
        """Opens a regular file; FileNotFoundError if there is none."""

    def replace(self, source: str, target: str) -> None:
        """Gives a file another name, in the place of an old one."""

    def remove(self, path: str) -> None:
        """Removes a file; one that is gone already is no error."""

    def remove_directory(self, path: str) -> None:
        """Removes a folder if it is there and empty."""

    def sync_directory(self, path: str) -> None:
        """Returns when the names in a folder survive a loss of power."""

    def exclusive(self, path: str) -> AbstractContextManager[None]:
        """Keeps other processes out of such a block on the same folder, if it can."""


class LocalFileSystem:
    """A mounted file system, on this machine or shared by several."""

    renames = True

    def make_directory(self, path: str) -> None:
        """Makes a folder and its parents where they are missing, for this user only."""
        # The mode of os.makedirs is that of the last folder alone.
        parent = os.path.dirname(path)
        if parent and not os.path.isdir(parent):
            self.make_directory(parent)
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            if not os.path.isdir(path):
                raise
            return
        if parent:
            self.sync_directory(parent)

    def names(self, path: str) -> list[str]:
        """Returns what is in a folder, sorted; nothing if there is no such folder."""
        try:
            return sorted(os.listdir(path))
        except FileNotFoundError:
            return []

    def create(self, path: str) -> Sink:
        """Starts a file, in the place of an old one."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        return _LocalSink(os.open(path, flags, 0o600))

    def open(self, path: str) -> Source:
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
        return _LocalSource(descriptor, path)

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
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):
                raise

    def sync_directory(self, path: str) -> None:
        """Returns when the names in a folder survive a loss of power."""
        with _folder(path) as descriptor:
            os.fsync(descriptor)

    @contextmanager
    def exclusive(self, path: str) -> Iterator[None]:
        """Keeps other processes out of such a block on the same folder, if it can.

        The kernel lets go of it when the process ends. Some network file systems have
        no such locks; there the block is entered all the same.
        """
        with _folder(path) as descriptor:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF):
                    raise
            yield


@contextmanager
def _folder(path: str) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class _LocalSink:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, data: memoryview) -> None:
        while data:
            data = data[os.write(self._descriptor, data) :]

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
            count = os.readv(self._descriptor, [buffer[filled:]])
            if not count:
                break
            filled += count
        return filled

    def close(self) -> None:
        os.close(self._descriptor)
