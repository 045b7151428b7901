"""What the store says when something is wrong with its directory."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from tfdist.checkpoint.errors import CheckpointError
from tfdist.errors import explain

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}
_NO_FOLDER = {errno.ENOTDIR, errno.EEXIST}


@contextmanager
def explaining(problem: str, directory: str) -> Iterator[None]:
    """Turns errors of the file system into a CheckpointError that says the fix."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(_trouble(problem, error, directory)) from error


def _trouble(problem: str, error: OSError, directory: str) -> str:
    hint = "Look at the disk, its mount and the system's log."
    if error.errno in _FULL:
        hint = f"Free space in {directory} (df -h), or keep fewer steps."
    elif error.errno in _REFUSED:
        hint = f"Make {directory} writable for this user, or choose another directory."
    elif error.errno in _NO_FOLDER:
        hint = "Choose a folder, or a name that is not taken by a file."
    elif error.errno == errno.ENOENT:
        hint = f"Leave {directory} alone while the job runs; start the job again."
    return explain(
        problem,
        received=f"{type(error).__name__}: {error}",
        expected="a folder that can be written",
        hint=hint,
    )


def other_run(directory: str, own: str, found: str) -> str:
    """Says that a directory holds the checkpoints of another run."""
    return explain(
        f"The directory {directory} belongs to another run",
        received=f"run_id={own!r}, checkpoints of {found!r}",
        expected="the checkpoints of this run, or none",
        hint=f"Choose another directory, or go on with that run: run_id={found!r}.",
    )


def not_shared(directory: str, rank: int) -> str:
    """Says that a rank does not find the chief's lock."""
    return explain(
        f"Rank {rank} sees another directory {directory} than rank 0",
        received="no lock of this job in it",
        expected="one directory that all ranks share",
        hint="Use a folder on a file system that all hosts mount, or an object store.",
    )
