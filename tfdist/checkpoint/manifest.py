"""`MANIFEST.json`, the file that makes a folder a checkpoint.

It is written last and names every other file with its size and hash, so that whoever
reads it knows of each byte whether it is the one that was saved. It ends with a digest
of itself, whose rule is the same in all versions of the format.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tfdist.checkpoint.errors import CheckpointError, DamagedError
from tfdist.checkpoint.layout import DTYPES, are_sizes, check_name
from tfdist.checkpoint.plain import decode_json, plain_copy
from tfdist.checkpoint.tensors import Written
from tfdist.errors import explain

NAME = "MANIFEST.json"
FORMAT = 1
MAX_BYTES = 64 << 20
MAX_STEP = 10**18 - 1
MAX_TIME = 2.0**32

_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_WRITTEN = {"size", "sha256", "tensors", "finite"}


class NewerFormatError(CheckpointError):
    """A newer version of tfdist wrote this; an older step would be a loss of work."""


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint consists of.

    Attributes:
        run_id: The run that it belongs to.
        session: The start of the job that wrote it; also in the names of its files.
        step: Steps made, as the saving side counts them.
        world_size: Processes of the job that saved it.
        time: When, in seconds since 1970 by the chief's clock; for people.
        common: The file of what all ranks share.
        ranks: Each rank's file, in order.
        files: What each of these files was when it was written.
        details: Plain JSON of the chief: epoch, batch, strategy, versions, metrics, ...
        own_details: Plain JSON of each rank, in order.
        format: The version of all this.
    """

    run_id: str
    session: str
    step: int
    world_size: int
    time: float
    common: str
    ranks: Sequence[str]
    files: Mapping[str, Written]
    details: Mapping[str, Any] = field(default_factory=dict)
    own_details: Sequence[Mapping[str, Any]] = ()
    format: int = FORMAT

    @property
    def size(self) -> int:
        """Bytes of all files that it names."""
        return sum(written.size for written in self.files.values())

    @property
    def finite(self) -> bool:
        """Whether no tensor holds an infinity or NaN."""
        return all(written.finite for written in self.files.values())

    @property
    def metrics(self) -> Mapping[str, Any]:
        """What `details["metrics"]` says, if it is a dict."""
        found = self.details.get("metrics")
        return found if isinstance(found, dict) else {}


_FIELDS = {*Manifest.__dataclass_fields__, "digest"}


def encode(manifest: Manifest) -> bytes:
    """Returns the manifest as a file."""
    fields = plain_copy(asdict(manifest), "manifest")
    fields["digest"] = _digest(fields)
    return (json.dumps(fields, indent=1, sort_keys=True) + "\n").encode()


def decode(data: bytes, path: str) -> Manifest:
    """Returns what a manifest says; `path` is for messages.

    Raises:
        DamagedError: It is torn, altered, or none.
        NewerFormatError: A newer version of tfdist wrote it.
    """
    fields = decode_json(data, path)
    if fields.pop("digest", None) != _digest(fields):
        raise DamagedError(f"{path} is not what its digest says")
    version = fields.get("format")
    if type(version) is not int or version < 1:
        raise DamagedError(f"{path} has no version of the format")
    if version > FORMAT:
        raise NewerFormatError(
            explain(
                f"{path} was written by a newer version of tfdist",
                received=f"format {version}",
                expected=f"format {FORMAT}",
                hint="pip install --upgrade tfdist, or begin in another directory.",
            )
        )
    if {*fields, "digest"} != _FIELDS or not _is_manifest(fields):
        raise DamagedError(f"{path} lacks fields, or has some of a wrong kind")
    files = {
        name: decode_written(value, path) for name, value in fields["files"].items()
    }
    return Manifest(**{**fields, "files": files})


def decode_written(value: Any, path: str) -> Written:
    """Returns what a file was when it was written; `path` is for messages.

    Raises:
        DamagedError: This is no description of a file.
    """
    if not _is_written(value):
        raise DamagedError(f"{path} describes a file wrongly")
    tensors = {
        check_name(name): (dtype, tuple(shape))
        for name, (dtype, shape) in value["tensors"].items()
    }
    return Written(**{**value, "tensors": tensors})


def _digest(fields: Mapping[str, Any]) -> str:
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _is_manifest(fields: Mapping[str, Any]) -> bool:
    ranks, own, time = fields["ranks"], fields["own_details"], fields["time"]
    return (
        _matches(_WORD, fields["run_id"])
        and _matches(_WORD, fields["session"])
        and are_sizes([fields["step"], fields["world_size"]])
        and fields["step"] <= MAX_STEP
        and type(time) in (int, float)
        and 0 <= time <= MAX_TIME
        and isinstance(fields["details"], dict)
        and isinstance(own, list)
        and all(isinstance(each, dict) for each in own)
        and isinstance(ranks, list)
        and all(_matches(_FILE, name) for name in [fields["common"], *ranks])
        and isinstance(fields["files"], dict)
        and set(fields["files"]) == {fields["common"], *ranks}
        and len(fields["files"]) == len(ranks) + 1
        and len(ranks) == len(own) == fields["world_size"] > 0
    )


def _is_written(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == _WRITTEN
        and are_sizes([value["size"]])
        and _matches(_SHA256, value["sha256"])
        and isinstance(value["finite"], bool)
        and isinstance(value["tensors"], dict)
        and all(_is_tensor(each) for each in value["tensors"].values())
    )


def _is_tensor(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and value[0] in DTYPES
        and are_sizes(value[1])
    )


def _matches(pattern: re.Pattern[str], value: Any) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None
