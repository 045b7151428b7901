"""The one object through which checkpoints reach a disk.

Few operations, each of them one that can fail or be interrupted: a test that wraps this
object can count them, stop before, within and after each, and let each fail.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol


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

    def make_directory(self, path: str, *, parents: bool = False) -> None:
        """Makes a folder for this user only, and its parents if asked; it may exist."""

    def names(self, path: str) -> list[str]:
        """Returns what is in a folder, sorted; nothing if there is no such folder."""

    def create(self, path: str) -> Sink:
        """Starts a file, in the place of an old one."""

    def open(self, path: str, *, cached: bool = True) -> Source:
        """Opens a regular file; FileNotFoundError if there is none.

        Not `cached`: the disk itself is read, as far as it can be, and memory is not
        filled with what nobody will read again.
        """

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
