"""`MANIFEST.json`, the file that makes a folder a checkpoint.

It is written last and names every other file with its size and hash, so that whoever
reads it knows of each byte whether it is the one that was saved. It ends with a digest
of itself.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tfdist.checkpoint.errors import CheckpointError, DamagedError
from tfdist.checkpoint.tensors import (
    DTYPES,
    Written,
    are_sizes,
    check_name,
    unique_keys,
)
from tfdist.errors import explain

NAME = "MANIFEST.json"
FORMAT = 1
MAX_BYTES = 64 << 20

_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_KEYS = {
    "common",
    "details",
    "digest",
    "files",
    "finite",
    "format",
    "own_details",
    "ranks",
    "run_id",
    "session",
    "step",
    "time",
    "world_size",
}


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint consists of.

    Attributes:
        run_id: The run that it belongs to.
        session: The start of the job that wrote it; also in the files' names.
        step: Optimizer steps, or whatever the saving side counts.
        world_size: Processes of the job that saved it.
        time: When, in seconds since 1970, as the chief's clock had it; for people.
        common: The file of what all ranks share.
        ranks: Each rank's file, in order.
        files: Size, hash and tensors of every file.
        finite: Whether no tensor holds an infinity or NaN.
        details: Plain JSON of the chief: epoch, batch, strategy, versions, callbacks.
        own_details: Plain JSON of each rank, in order.
    """

    run_id: str
    session: str
    step: int
    world_size: int
    time: float
    common: str
    ranks: Sequence[str]
    files: Mapping[str, Written]
    finite: bool = True
    details: Mapping[str, Any] = field(default_factory=dict)
    own_details: Sequence[Mapping[str, Any]] = ()
    format: int = FORMAT

    @property
    def size(self) -> int:
        """Bytes of all files but the manifest."""
        return sum(written.size for written in self.files.values())


def encode(manifest: Manifest) -> bytes:
    """Returns the manifest as a file.

    JSON as Python writes it: infinities and NaN, such as the best value of a metric
    before its first epoch, are `Infinity` and `NaN`.
    """
    # Once through JSON: what has other keys than strings would not be sorted alike.
    fields = json.loads(json.dumps(asdict(manifest)))
    fields["digest"] = _digest(fields)
    return (json.dumps(fields, indent=1, sort_keys=True) + "\n").encode()


def decode(data: bytes, path: str) -> Manifest:
    """Returns what a manifest says.

    Raises:
        DamagedError: It is torn, altered, or none.
        CheckpointError: A newer version of tfdist wrote it.
    """
    try:
        fields = json.loads(data, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path} is no readable JSON") from error
    version = fields.get("format") if isinstance(fields, dict) else None
    if type(version) is not int or version < 1:
        raise DamagedError(f"{path} is no manifest")
    if version > FORMAT:
        raise CheckpointError(
            explain(
                f"{path} was written by a newer version of tfdist",
                received=f"format {version}",
                expected=f"format {FORMAT} or older",
                hint="pip install --upgrade tfdist, or start in another directory.",
            )
        )
    if set(fields) != _KEYS:
        names = ", ".join(sorted(set(fields) ^ _KEYS))[:200]
        raise DamagedError(f"{path} lacks fields, or has unknown ones: {names}")
    if fields.pop("digest") != _digest(fields):
        raise DamagedError(f"{path} does not have the digest that it names")
    _check(fields, path)
    files = {
        name: Written(
            size=each["size"],
            sha256=each["sha256"],
            tensors={
                tensor: (dtype, tuple(shape))
                for tensor, (dtype, shape) in each["tensors"].items()
            },
            finite=each["finite"],
        )
        for name, each in fields["files"].items()
    }
    return Manifest(**{**fields, "files": files})


def _digest(fields: Mapping[str, Any]) -> str:
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _check(fields: Mapping[str, Any], path: str) -> None:
    ranks, files = fields["ranks"], fields["files"]
    is_right = (
        _matches(_RUN, fields["run_id"])
        and _matches(_RUN, fields["session"])
        and are_sizes([fields["step"], fields["world_size"]])
        and isinstance(fields["time"], float | int)
        and isinstance(fields["finite"], bool)
        and isinstance(fields["details"], dict)
        and isinstance(fields["own_details"], list)
        and all(isinstance(each, dict) for each in fields["own_details"])
        and isinstance(ranks, list)
        and isinstance(files, dict)
        and len(ranks) == len(fields["own_details"]) == fields["world_size"] >= 1
        and {fields["common"], *ranks} == set(files)
        and len(files) == len(ranks) + 1
        and all(_matches(_FILE, name) for name in files)
        and all(_is_file(each) for each in files.values())
    )
    if not is_right:
        raise DamagedError(f"{path} has fields of a wrong kind")
    for each in files.values():
        for name in each["tensors"]:
            check_name(name)


def _matches(pattern: re.Pattern[str], value: Any) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _is_file(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == {"size", "sha256", "tensors", "finite"}
        and are_sizes([value["size"]])
        and _matches(_DIGEST, value["sha256"])
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
