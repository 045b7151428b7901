"""Named arrays in a file of the safetensors layout.

A file is the length of its header (64 bits, little-endian), the header (JSON: for each
name the dtype, the shape, and where its bytes begin and end after the header), then
the bytes, little-endian, in C order, without gaps. The safetensors library reads such
files. It does not write them here, because it needs all bytes in one piece, a second
copy of the state, and opens the file itself, past `FileSystem`.

A header is data of a stranger until it has been checked: what it promises is compared
with the size of the file before a byte is allocated.

References:
    Hugging Face, Safetensors: format, 2022.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from tfdist.checkpoint.errors import DamagedError
from tfdist.checkpoint.filesystem import FileSystem
from tfdist.errors import explain

Array = np.ndarray[Any, Any]

# The layout's own names; the order of the file is by size, so that all are aligned.
DTYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "I16": np.dtype(np.int16),
    "U16": np.dtype(np.uint16),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I32": np.dtype(np.int32),
    "U32": np.dtype(np.uint32),
    "F32": np.dtype(np.float32),
    "C64": np.dtype(np.complex64),
    "F64": np.dtype(np.float64),
    "I64": np.dtype(np.int64),
    "U64": np.dtype(np.uint64),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}

MAX_HEADER = 64 << 20  # bytes; a name and its shape take about 100
MAX_NAME = 1024  # characters
MAX_RANK = 32  # dimensions, NumPy's old limit
CHUNK = 8 << 20  # bytes written and hashed at a time: what a cache still holds

_FIELDS = {"dtype", "shape", "data_offsets"}
_LENGTH = struct.Struct("<Q")
# A path in the model. No control characters, no backslash, nothing that climbs.
_NAME = re.compile(r"[^\x00-\x1f\x7f\\]+")


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies, and what it is."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int  # bytes after the header
    end: int


@dataclass(frozen=True)
class Written:
    """What a file holds that was written."""

    size: int
    sha256: str
    tensors: Mapping[str, tuple[str, tuple[int, ...]]]  # name -> dtype, shape
    finite: bool  # whether no tensor holds an infinity or NaN


def check_name(name: object) -> str:
    """Returns a tensor's name.

    Raises:
        DamagedError: It is none: empty, too long, with control characters, an absolute
            path or one that climbs.
    """
    if (
        not isinstance(name, str)
        or len(name) > MAX_NAME
        or not _NAME.fullmatch(name)
        or name.startswith("/")
        or ".." in name.split("/")
        or name == "__metadata__"
    ):
        raise DamagedError(f"{str(name)[:80]!r} is no name of a tensor")
    return name


def check_arrays(arrays: Mapping[str, Array]) -> None:
    """Makes sure that arrays can be written.

    Raises:
        ValueError: A name or a dtype cannot be.
    """
    for name in arrays:
        try:
            check_name(name)
        except DamagedError as error:
            raise ValueError(
                explain(
                    "A tensor's name cannot be written",
                    received=repr(name),
                    expected=f"up to {MAX_NAME} characters, no control characters, "
                    "no backslash, no '..'",
                    hint="Rename the layer or variable.",
                )
            ) from error
        dtype_name(arrays[name].dtype, name)


def dtype_name(dtype: np.dtype[Any], name: str) -> str:
    """Returns the layout's name of a dtype; `name` is the tensor's, for the message.

    Raises:
        ValueError: It has none.
    """
    known = _NAMES.get(dtype.newbyteorder("="))
    if known is None:
        raise ValueError(
            explain(
                f"The dtype of {name!r} cannot be written",
                received=str(dtype),
                expected=", ".join(str(each) for each in _NAMES),
                hint="Keep strings and objects as plain JSON values.",
            )
        )
    return known


def lay_out(arrays: Mapping[str, Array]) -> tuple[bytes, list[str]]:
    """Returns the header, with its length in front, and the names in the file's order.

    Largest items first, then by name: every tensor is aligned to its items, since the
    header is padded to a multiple of 8 bytes.
    """
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    fields: dict[str, Any] = {}
    position = 0
    for name in order:
        array = arrays[name]
        fields[name] = {
            "dtype": dtype_name(array.dtype, name),
            "shape": list(array.shape),
            "data_offsets": [position, position + array.nbytes],
        }
        position += array.nbytes
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return _LENGTH.pack(len(text)) + text, order


def write_tensors(files: FileSystem, path: str, arrays: Mapping[str, Array]) -> Written:
    """Writes arrays to a durable file, without a second copy of any that is in C order.

    Raises:
        ValueError: A name or a dtype cannot be written.
        OSError: The file system says so; the file is then no complete one.
    """
    check_arrays(arrays)
    header, order = lay_out(arrays)
    digest = hashlib.sha256()
    sink = files.create(path)
    size, finite = 0, True
    try:
        for piece, dtype in _pieces(header, [arrays[name] for name in order]):
            sink.write(piece)
            digest.update(piece)
            size += len(piece)
            finite = finite and is_finite(piece, dtype)
        sink.sync()
    except BaseException:
        sink.discard()
        raise
    sink.close()
    tensors = {
        name: (dtype_name(arrays[name].dtype, name), tuple(arrays[name].shape))
        for name in order
    }
    return Written(size, digest.hexdigest(), tensors, finite)


def _pieces(
    header: bytes, arrays: Sequence[Array]
) -> Iterator[tuple[memoryview, np.dtype[Any]]]:
    yield memoryview(header), np.dtype(np.uint8)
    for array in arrays:
        data = _raw(array)
        for begin in range(0, len(data), CHUNK):
            yield data[begin : begin + CHUNK], array.dtype


def is_finite(data: memoryview, dtype: np.dtype[Any]) -> bool:
    """Returns whether no item of these bytes is an infinity or NaN.

    A sum of finite items is finite, unless it overflows; only then each is looked at.
    """
    if dtype.kind not in "fcV":  # V: bfloat16 and float8
        return True
    items = np.frombuffer(data, dtype.newbyteorder("<"))
    with np.errstate(all="ignore"):
        return bool(np.isfinite(items.sum()) or np.isfinite(items).all())


def _raw(array: Array) -> memoryview:
    """Returns an array's bytes in the file's order, without a copy if they are so."""
    array = np.ascontiguousarray(array)
    if array.dtype.isnative == (sys.byteorder == "big"):
        array = array.byteswap()
    return array.reshape(-1).view(np.uint8).data


def read_tensors(data: bytearray | bytes, path: str) -> dict[str, Array]:
    """Returns the arrays of a whole file, which share its memory.

    Raises:
        DamagedError: The file is malformed; nothing has been allocated.
    """
    entries, start = parse(data, path)
    found = {}
    for entry in entries:
        dtype = DTYPES[entry.dtype]
        count = math.prod(entry.shape)
        array = np.frombuffer(data, dtype, count, start + entry.begin)
        if sys.byteorder == "big":
            array = array.byteswap()
        found[entry.name] = array.reshape(entry.shape)
    return found


def parse(data: bytearray | bytes, path: str) -> tuple[list[Entry], int]:
    """Returns a file's table of contents and where its tensors begin.

    Raises:
        DamagedError: The header is malformed, or does not fit to the file's size.
    """
    if len(data) < _LENGTH.size:
        raise DamagedError(f"{path} has {len(data)} bytes, less than a header")
    (length,) = _LENGTH.unpack_from(data)
    if length > MAX_HEADER:
        raise DamagedError(f"{path} names a header of {length} bytes")
    start = _LENGTH.size + length
    if start > len(data):
        raise DamagedError(f"{path} ends within its header")
    try:
        fields = json.loads(
            bytes(data[_LENGTH.size : start]), object_pairs_hook=unique_keys
        )
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path} has no readable header") from error
    if not isinstance(fields, dict):
        raise DamagedError(f"{path} has no readable header")
    fields.pop("__metadata__", None)  # words of other writers
    entries = [_entry(name, value, path) for name, value in fields.items()]
    _check_cover(entries, len(data) - start, path)
    return entries, start


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns a JSON object as a dict; as a hook of `json.loads`.

    Raises:
        ValueError: A key comes twice, so that two readers could see two files.
    """
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a key comes twice")
    return fields


def _entry(name: str, fields: Any, path: str) -> Entry:
    wrong = DamagedError(f"{path} describes {name[:80]!r} wrongly")
    check_name(name)
    if not isinstance(fields, dict) or set(fields) != {
        "dtype",
        "shape",
        "data_offsets",
    }:
        raise wrong
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise DamagedError(f"{path}: unknown dtype {str(dtype)[:20]!r}")
    if not are_sizes(shape) or not are_sizes(offsets) or len(offsets) != 2:
        raise wrong
    begin, end = offsets
    if end - begin != math.prod(shape) * DTYPES[dtype].itemsize:
        raise wrong
    return Entry(name, dtype, tuple(shape), begin, end)


def are_sizes(values: Any) -> bool:
    """Returns whether this is a list of few integers >= 0."""
    return (
        isinstance(values, list)
        and len(values) <= MAX_RANK
        and all(type(value) is int and 0 <= value < 2**62 for value in values)
    )


def _check_cover(entries: Sequence[Entry], size: int, path: str) -> None:
    position = 0
    for entry in sorted(entries, key=lambda each: (each.begin, each.end)):
        if entry.begin != position:
            raise DamagedError(f"{path}: {entry.name!r} overlaps or leaves a gap")
        position = entry.end
    if position != size:
        raise DamagedError(f"{path} has {size} bytes of tensors, not {position}")
