"""From what the user calls the directory to the file system that has it."""

from __future__ import annotations

import os

from tfdist.checkpoint.filesystem import FileSystem
from tfdist.checkpoint.local import LocalFileSystem
from tfdist.checkpoint.remote import RemoteFileSystem
from tfdist.errors import explain


def locate(directory: str | os.PathLike[str]) -> tuple[FileSystem, str]:
    """Returns the file system of a directory, and its path there.

    Args:
        directory: A path, made absolute and free of links, or an address such as "gs://bucket/run".

    Raises:
        TypeError: It is neither.
        ValueError: It is empty, or a package for this kind of address is missing.
    """
    if not isinstance(directory, str | os.PathLike) or not os.fspath(directory):
        kind = ValueError if isinstance(directory, str) else TypeError
        raise kind(
            explain(
                "A directory of checkpoints must be named",
                received=repr(directory),
                expected="a path such as 'runs/digits' or an address such as "
                "'gs://bucket/runs/digits'",
                hint="Pass a folder of this run alone.",
            )
        )
    path = os.fspath(directory)
    if path.startswith("file://"):
        path = path.removeprefix("file://")
    if "://" in path:
        return RemoteFileSystem(path), path.rstrip("/")
    return LocalFileSystem(), os.path.realpath(os.path.expanduser(path))
