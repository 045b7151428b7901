"""The layout of a file of tensors: that of safetensors.

A file is the length of its header (64 bits, little-endian), the header (JSON: for each
name the dtype, the shape, and where its bytes begin and end after the header), then the
bytes of all tensors, little-endian, in C order, without gaps. Nothing in it can be run.

A header is a stranger's until it has been checked: what it promises is compared with
the size of the file before anything is allocated for it.

References:
    Hugging Face, Safetensors: format, 2022.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from tfdist.checkpoint.errors import DamagedError
from tfdist.checkpoint.plain import decode_json
from tfdist.errors import explain

Array = np.ndarray[Any, Any]

DTYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "U16": np.dtype(np.uint16),
    "I16": np.dtype(np.int16),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "U32": np.dtype(np.uint32),
    "I32": np.dtype(np.int32),
    "F32": np.dtype(np.float32),
    "U64": np.dtype(np.uint64),
    "I64": np.dtype(np.int64),
    "F64": np.dtype(np.float64),
    "C64": np.dtype(np.complex64),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}

LENGTH = struct.Struct("<Q")
MAX_HEADER = 64 << 20  # bytes; a tensor takes about 100
MAX_NAME = 1024  # characters
MAX_DIMENSIONS = 32

_FIELDS = {"dtype", "shape", "data_offsets"}
_METADATA = "__metadata__"  # words of other writers, no tensor


@dataclass(frozen=True)
class Entry:
    """What a tensor is, and where its bytes lie after the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def encode_header(arrays: Mapping[str, Array]) -> tuple[bytes, list[str]]:
    """Returns the length and the header, and the names in the order of the file.

    The largest items come first and the header is padded to a multiple of 8 bytes, so
    that every tensor is aligned to its items.

    Raises:
        ValueError: A name or a dtype cannot be written, or there are too many.
    """
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    fields: dict[str, Any] = {}
    position = 0
    for name in order:
        array = arrays[name]
        _check_own_name(name)
        fields[name] = {
            "dtype": name_of(array.dtype, name),
            "shape": list(array.shape),
            "data_offsets": [position, position + array.nbytes],
        }
        position += array.nbytes
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise ValueError(
            explain(
                "Too many tensors for one file",
                received=f"{len(arrays)}, a header of {len(text)} bytes",
                expected=f"at most {MAX_HEADER} bytes",
                hint="Save fewer or larger arrays.",
            )
        )
    return LENGTH.pack(len(text)) + text, order


def decode_header(text: bytes, size: int, path: str) -> dict[str, Entry]:
    """Returns a file's table of contents.

    Args:
        text: The header.
        size: Bytes of the file after the header.
        path: The file, for messages.

    Raises:
        DamagedError: It is no header, or not the one of so many bytes.
    """
    fields = decode_json(text, f"the header of {path}")
    entries = {
        check_name(name): _entry(name, value, path)
        for name, value in fields.items()
        if name != _METADATA
    }
    _check_cover(entries, size, path)
    return entries


def name_of(dtype: np.dtype[Any], tensor: str) -> str:
    """Returns the layout's name of a dtype.

    Raises:
        ValueError: It has none; the message names the tensor.
    """
    known = _NAMES.get(dtype.newbyteorder("="))
    if known is None:
        raise ValueError(
            explain(
                f"The dtype of {tensor!r} cannot be written",
                received=str(dtype),
                expected=", ".join(str(each) for each in _NAMES),
                hint="Hand strings and objects in as plain JSON.",
            )
        )
    return known


def check_name(name: str) -> str:
    """Returns a tensor's name.

    Raises:
        DamagedError: It is empty, too long, an absolute path or one that climbs, or it
            has backslashes or what cannot be printed.
    """
    # Names are shown, and who exports tensors may make paths of them.
    if (
        0 < len(name) <= MAX_NAME
        and name.isprintable()
        and "\\" not in name
        and not name.startswith("/")
        and ".." not in name.split("/")
        and name != _METADATA
    ):
        return name
    raise DamagedError(f"{name[:80]!r} cannot be the name of a tensor")


def are_sizes(values: Any) -> bool:
    """Returns whether this is a list of a few integers >= 0."""
    return (
        isinstance(values, list)
        and len(values) <= MAX_DIMENSIONS
        and all(type(value) is int and 0 <= value < 2**62 for value in values)
    )


def _check_own_name(name: str) -> None:
    try:
        check_name(name)
    except DamagedError as error:
        raise ValueError(
            explain(
                "A name cannot be that of a tensor",
                received=repr(name),
                expected=f"up to {MAX_NAME} printable characters, no backslash, no "
                "'/' in front, no '..'",
                hint="Rename the layer or the variable.",
            )
        ) from error


def _entry(name: str, fields: Any, path: str) -> Entry:
    wrong = DamagedError(f"{path} describes {name[:80]!r} wrongly")
    if not isinstance(fields, dict) or set(fields) != _FIELDS:
        raise wrong
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise DamagedError(f"{path} has the unknown dtype {str(dtype)[:20]!r}")
    if not are_sizes(shape) or not are_sizes(offsets) or len(offsets) != 2:
        raise wrong
    begin, end = offsets
    if end - begin != math.prod(shape) * DTYPES[dtype].itemsize:
        raise wrong
    return Entry(dtype, tuple(shape), begin, end)


def _check_cover(entries: Mapping[str, Entry], size: int, path: str) -> None:
    position = 0
    for name, entry in sorted(entries.items(), key=lambda pair: _place(pair[1])):
        if entry.begin != position:
            raise DamagedError(f"{path}: {name!r} overlaps another, or leaves a gap")
        position = entry.end
    if position != size:
        raise DamagedError(f"{path} has {size} bytes of tensors instead of {position}")


def _place(entry: Entry) -> tuple[int, int]:
    return entry.begin, entry.end
