"""Files of named arrays, hashed while they are written and while they are read.

The layout is that of safetensors, and its library (0.8) reads these files. It does not
write them here: for NumPy it has no float8, it wants the bytes of all arrays in one
piece, a second copy of the state, and it opens the file itself, past `FileSystem`.
"""

from __future__ import annotations

import hashlib
import mmap
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfdist.checkpoint.errors import DamagedError
from tfdist.checkpoint.filesystem import FileSystem, Source
from tfdist.checkpoint.layout import (
    DTYPES,
    LENGTH,
    MAX_HEADER,
    Array,
    Entry,
    decode_header,
    encode_header,
    name_of,
)

CHUNK = 1 << 20  # bytes at a time: what is hashed is still in the cache when written

_BYTES = np.dtype(np.uint8)


@dataclass(frozen=True)
class Written:
    """What a file was when it was written.

    Attributes:
        size: Its bytes.
        sha256: Their hash, in hexadecimal digits.
        tensors: Dtype, by the layout's name, and shape of each tensor.
        finite: Whether no tensor holds an infinity or NaN.
    """

    size: int
    sha256: str
    tensors: Mapping[str, tuple[str, tuple[int, ...]]]
    finite: bool


def write_tensors(files: FileSystem, path: str, arrays: Mapping[str, Array]) -> Written:
    """Writes a durable file, without a copy of any array that is in C order.

    Raises:
        ValueError: A name or a dtype cannot be written; there is no file then.
        OSError: The file system says so; the file is not whole then.
    """
    header, order = encode_header(arrays)
    digest = hashlib.sha256()
    size, finite = 0, True
    sink = files.create(path)
    try:
        for chunk, good in _packed(_pieces(header, [arrays[name] for name in order])):
            digest.update(chunk)
            sink.write(chunk)
            size += len(chunk)
            finite = finite and good
        sink.sync()
    except BaseException:
        sink.discard()
        raise
    sink.close()
    tensors = {
        name: (name_of(arrays[name].dtype, name), tuple(arrays[name].shape))
        for name in order
    }
    return Written(size, digest.hexdigest(), tensors, finite)


def read_tensors(files: FileSystem, path: str, written: Written) -> dict[str, Array]:
    """Returns the arrays of a file; together they are one piece of memory.

    Raises:
        OSError: It cannot be read.
        DamagedError: It is not what was written.
    """
    source = files.open(path)
    try:
        digest = hashlib.sha256()
        entries, start = _read_header(source, digest, path, written)
        body = np.empty(source.size - start, _BYTES)
        for begin in range(0, len(body), CHUNK):
            _read(source, digest, body[begin : begin + CHUNK].data, path)
    finally:
        source.close()
    _check_digest(digest, path, written)
    return {name: _array(entry, body) for name, entry in entries.items()}


def verify_tensors(
    files: FileSystem, path: str, written: Written, *, cached: bool = False
) -> None:
    """Reads a file piece by piece; not `cached`: from the disk, if that can be.

    Raises:
        OSError: It cannot be read.
        DamagedError: It is not what was written.
    """
    source = files.open(path, cached=cached)
    try:
        digest = hashlib.sha256()
        _, start = _read_header(source, digest, path, written)
        piece = memoryview(bytearray(min(CHUNK, source.size - start)))
        for begin in range(start, source.size, CHUNK):
            _read(source, digest, piece[: source.size - begin], path)
    finally:
        source.close()
    _check_digest(digest, path, written)


def is_finite(data: memoryview, dtype: np.dtype[Any]) -> bool:
    """Returns whether no item of these bytes, as in a file, is an infinity or NaN.

    A sum of finite items is finite, unless it overflows; only then each is looked at.
    """
    if dtype.kind not in "fcV":  # V: bfloat16 and float8
        return True
    items = np.frombuffer(data, dtype.newbyteorder("<"))
    with np.errstate(all="ignore"):
        return bool(np.isfinite(items.sum()) or np.isfinite(items).all())


def _pieces(
    header: bytes, arrays: list[Array]
) -> Iterator[tuple[memoryview, np.dtype[Any]]]:
    yield memoryview(header), _BYTES
    for array in arrays:
        data = _little_endian(np.ascontiguousarray(array)).reshape(-1).view(_BYTES).data
        for begin in range(0, len(data), CHUNK):
            yield data[begin : begin + CHUNK], array.dtype


def _packed(
    pieces: Iterable[tuple[memoryview, np.dtype[Any]]],
) -> Iterator[tuple[memoryview, bool]]:
    """Yields the same bytes as whole pages, which a disk takes without another copy.

    Each time it is the same buffer, and whether all that was put into it is finite.
    """
    buffer = np.frombuffer(mmap.mmap(-1, CHUNK), _BYTES)
    filled, finite = 0, True
    for data, dtype in pieces:
        finite = finite and is_finite(data, dtype)
        while data:
            part, data = data[: CHUNK - filled], data[CHUNK - filled :]
            buffer[filled : filled + len(part)] = np.frombuffer(part, _BYTES)
            filled += len(part)
            if filled == CHUNK:
                yield buffer.data, finite
                filled = 0
    if filled:
        yield buffer[:filled].data, finite


def _little_endian(array: Array) -> Array:
    is_big = array.dtype.isnative == (sys.byteorder == "big")
    return array.byteswap() if is_big else array


def _read_header(
    source: Source, digest: Any, path: str, written: Written
) -> tuple[dict[str, Entry], int]:
    """Returns a file's table of contents, and where its tensors begin."""
    if source.size != written.size:
        raise DamagedError(
            f"{path} has {source.size} bytes instead of {written.size}",
        )
    (length,) = LENGTH.unpack(_take(source, digest, LENGTH.size, path))
    if length > MAX_HEADER:
        raise DamagedError(f"{path} names a header of {length} bytes")
    start = LENGTH.size + length
    text = _take(source, digest, length, path)
    entries = decode_header(text, source.size - start, path)
    if {name: (each.dtype, each.shape) for name, each in entries.items()} != dict(
        written.tensors
    ):
        raise DamagedError(f"{path} has other tensors than its manifest")
    return entries, start


def _take(source: Source, digest: Any, count: int, path: str) -> bytes:
    data = bytearray(min(count, source.size))
    if len(data) < count:
        raise DamagedError(f"{path} ends within its header")
    _read(source, digest, memoryview(data), path)
    return bytes(data)


def _read(source: Source, digest: Any, buffer: memoryview, path: str) -> None:
    if source.read_into(buffer) < len(buffer):
        raise DamagedError(f"{path} became shorter while it was read")
    digest.update(buffer)


def _check_digest(digest: Any, path: str, written: Written) -> None:
    if digest.hexdigest() != written.sha256:
        raise DamagedError(f"{path} has another SHA-256 than its manifest says")


def _array(entry: Entry, body: Array) -> Array:
    flat = body[entry.begin : entry.end].view(DTYPES[entry.dtype])
    if sys.byteorder == "big":
        flat = flat.byteswap()
    return flat.reshape(entry.shape)
