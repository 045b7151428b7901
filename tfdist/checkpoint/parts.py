"""What each rank hands in for a step, and how the chief learns that all have.

Beside its durable file, a rank leaves a note with the file's size and hash, or with the
reason why there is none. So ranks meet through the directory alone, in background
threads, while the job's collectives belong to training.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from tfdist.checkpoint.directory import Directory
from tfdist.checkpoint.errors import CheckpointError
from tfdist.checkpoint.files import publish, read_file
from tfdist.checkpoint.layout import Array
from tfdist.checkpoint.manifest import MAX_BYTES, decode_written
from tfdist.checkpoint.plain import decode_json, plain_copy
from tfdist.checkpoint.tensors import Written, write_tensors
from tfdist.errors import explain

_SECOND = "-2"
_FIRST_PAUSE, _LAST_PAUSE = 0.005, 0.5  # seconds between looks for notes


@dataclass(frozen=True)
class Part:
    """What one rank hands in to be saved.

    Attributes:
        own: This rank's own arrays.
        common: The arrays that all ranks share; of the chief only.
        details: Plain JSON for the manifest, of the chief only: "epoch", "batch",
            "strategy", "versions", "metrics" (name -> number, see `Best`), ...
        own_details: This rank's own plain JSON.
        replaces: Whether it takes the place of what was saved of the same step before:
            after an epoch's last step comes the epoch's end. The same on all ranks.
    """

    own: Mapping[str, Array] = field(default_factory=dict)
    common: Mapping[str, Array] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    own_details: Mapping[str, Any] = field(default_factory=dict)
    replaces: bool = False


@dataclass(frozen=True)
class Saving:
    """One save of one start of a job, as a rank sees it."""

    directory: Directory
    session: str
    step: int
    rank: int
    size: int
    finite_only: bool = False
    again: bool = False  # the step is there, and stays until this one is

    @property
    def folder(self) -> str:
        """The step's folder."""
        return self.directory.folder(self.step)

    @property
    def common_file(self) -> str:
        """The name of what all ranks share."""
        return f"common-{self._suffix}"

    def rank_file(self, rank: int) -> str:
        """Returns the name of a rank's file."""
        return f"rank-{rank:04d}-of-{self.size:04d}-{self._suffix}"

    def write(self, name: str, arrays: Mapping[str, Array]) -> Written:
        """Writes a durable file of tensors into the folder.

        Raises:
            OSError: The file system says so.
            CheckpointError: An array is not finite, and only finite ones are wanted.
        """
        written = write_tensors(self.directory.files, f"{self.folder}/{name}", arrays)
        if self.finite_only and not written.finite:
            raise CheckpointError(_not_finite(arrays))
        return written

    @property
    def _suffix(self) -> str:
        # Never the name of a file that a manifest may already name.
        second = _SECOND if self.again else ""
        return f"{self.session}{second}.safetensors"


@dataclass(frozen=True)
class HandedIn:
    """A rank's file and its plain data."""

    written: Written
    details: Mapping[str, Any]


def is_second(name: str, session: str) -> bool:
    """Returns whether a file is of a session's second save of a step."""
    return f"-{session}{_SECOND}." in name


def hand_in(saving: Saving, part: Part) -> None:
    """Writes the file of a rank that is not the chief, and its note.

    Raises:
        OSError: The file system says so; the chief is told, if it can be.
        CheckpointError: As `Saving.write`.
    """
    files, name = saving.directory.files, saving.rank_file(saving.rank)
    note = f"{saving.folder}/{name}.json"
    files.make_directory(saving.folder)
    try:
        written = saving.write(name, part.own)
        files.sync_directory(saving.folder)
        details = plain_copy(part.own_details, "own details")
        found = {"written": asdict(written), "details": details}
        publish(files, note, json.dumps(found).encode(), durable=False)
    except Exception as error:
        try:
            files.remove(f"{saving.folder}/{name}")
            failed = json.dumps({"failed": str(error)}).encode()
            publish(files, note, failed, durable=False)
        except OSError:
            pass  # the chief will wait in vain, and say so
        raise


def collect(
    saving: Saving, timeout: float, aborted: threading.Event
) -> dict[str, HandedIn]:
    """Returns what all ranks but the chief have handed in, by file, in their order.

    Args:
        saving: The chief's save.
        timeout: Seconds to wait.
        aborted: Ends the waiting.

    Raises:
        CheckpointError: A rank is missing after that time, or could not write.
    """
    names = {saving.rank_file(rank): rank for rank in range(1, saving.size)}
    end = time.monotonic() + timeout
    pause = _FIRST_PAUSE
    while missing := _missing(saving, names):
        if aborted.is_set() or time.monotonic() > end:
            raise CheckpointError(_incomplete(saving.step, missing, timeout, aborted))
        aborted.wait(pause)
        pause = min(2 * pause, _LAST_PAUSE)
    return {name: _read_note(saving, name, rank) for name, rank in names.items()}


def _missing(saving: Saving, names: Mapping[str, int]) -> list[int]:
    if not names:
        return []
    there = set(saving.directory.files.names(saving.folder))
    return [rank for name, rank in names.items() if f"{name}.json" not in there]


def _read_note(saving: Saving, name: str, rank: int) -> HandedIn:
    files, path = saving.directory.files, f"{saving.folder}/{name}"
    note = decode_json(read_file(files, f"{path}.json", MAX_BYTES), f"{path}.json")
    if "failed" in note:
        problem = str(note["failed"]).partition("\nHINT")[0]
        raise CheckpointError(_failed(rank, problem, "a file of every rank"))
    written = decode_written(note.get("written"), path)
    source = files.open(path)
    source.close()
    if source.size != written.size:
        problem = f"{path} has {source.size} bytes"
        raise CheckpointError(_failed(rank, problem, f"the {written.size} it wrote"))
    return HandedIn(written, plain_copy(note.get("details", {}), "note"))


def _failed(rank: int, received: str, expected: str) -> str:
    return explain(
        f"Rank {rank} could not save",
        received=received,
        expected=expected,
        hint="That rank's own log tells more.",
    )


def _not_finite(arrays: Mapping[str, Array]) -> str:
    return explain(
        "The state is not finite",
        received=f"infinities or NaN among {', '.join(list(arrays)[:3])}, ...",
        expected="finite numbers only, as was asked for",
        hint="Go on from the last step that was saved, with a lower learning rate.",
    )


def _incomplete(
    step: int, missing: list[int], timeout: float, aborted: threading.Event
) -> str:
    ranks = ", ".join(str(rank) for rank in missing)
    if aborted.is_set():
        return f"Step {step} is given up: rank {ranks} had not saved its part."
    return explain(
        f"Step {step} is incomplete",
        received=f"nothing from rank {ranks} within {timeout:g} s",
        expected="a file of every rank in the same directory",
        hint="Look at that rank's log: has it ended, or is its disk slow? All ranks "
        "need to see the same directory.",
    )
