"""What can be wrong with a checkpoint, or with the place where it lies."""

from __future__ import annotations

from tfdist.errors import TfdistError


class CheckpointError(TfdistError):
    """A checkpoint cannot be written or read; the message says why, and what to do."""


class DamagedError(CheckpointError):
    """A file is not what its checkpoint's manifest says, or no file of this kind.

    The message is one line without a hint: the reader falls back to another step, and
    tells this as the reason.
    """


class OccupiedError(CheckpointError):
    """The directory belongs to another job that is running, or to another run."""
