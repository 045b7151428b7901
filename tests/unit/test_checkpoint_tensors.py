"""Files of tensors: what is written comes back, and nothing else is believed."""

import json
import mmap
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from tfdist.checkpoint.errors import DamagedError
from tfdist.checkpoint.layout import DTYPES, LENGTH, decode_header, encode_header
from tfdist.checkpoint.local import LocalFileSystem
from tfdist.checkpoint.tensors import (
    CHUNK,
    Written,
    is_finite,
    read_tensors,
    verify_tensors,
    write_tensors,
)

FILES = LocalFileSystem()


def arrays() -> dict[str, np.ndarray]:
    """One array of each dtype, in several shapes."""
    draw = np.random.default_rng(1)
    found = {
        f"layer/{name.lower()}": np.asarray(draw.integers(0, 2, (3, 5))).astype(dtype)
        for name, dtype in DTYPES.items()
    }
    found["scalar"] = np.array(3, np.int64)
    found["empty"] = np.zeros((0, 4), np.float32)
    found["swapped"] = np.arange(5, dtype=">f4")
    found["strided"] = np.arange(24, dtype=np.float32).reshape(4, 6)[::2, ::3]
    found["fortran"] = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    return found


def written(folder: Path, **more: np.ndarray) -> tuple[str, Written]:
    path = str(folder / "file.safetensors")
    return path, write_tensors(FILES, path, more or arrays())


def test_all_dtypes_and_shapes_come_back(tmp_path: Path):
    path, facts = written(tmp_path)
    found = read_tensors(FILES, path, facts)
    assert set(found) == set(arrays())
    for name, array in arrays().items():
        assert found[name].dtype == array.dtype.newbyteorder("="), name
        assert found[name].shape == array.shape, name
        np.testing.assert_array_equal(found[name], array)
        assert found[name].flags.aligned and found[name].flags.writeable
    verify_tensors(FILES, path, facts)


def test_bits_come_back_also_of_nan(tmp_path: Path):
    bits = np.array([0x7FC00001, 0xFF800000, 0x00000001, 0x80000000], np.uint32)
    path, facts = written(tmp_path, x=bits.view(np.float32))
    found = read_tensors(FILES, path, facts)["x"]
    np.testing.assert_array_equal(found.view(np.uint32), bits)


def test_the_safetensors_library_reads_the_file(tmp_path: Path):
    library = pytest.importorskip("safetensors.numpy")
    # Its functions for NumPy know neither float8 nor complex numbers.
    unknown = ("layer/c64", "layer/f8_e4m3", "layer/f8_e5m2")
    mine = {name: array for name, array in arrays().items() if name not in unknown}
    path, _ = written(tmp_path, **mine)
    found = library.load_file(path)
    for name, array in mine.items():
        np.testing.assert_array_equal(found[name], array)


def test_a_file_of_the_safetensors_library_is_read(tmp_path: Path):
    library = pytest.importorskip("safetensors.numpy")
    path = str(tmp_path / "theirs.safetensors")
    library.save_file({"a": np.arange(3.0)}, path, metadata={"by": "them"})
    data = Path(path).read_bytes()
    (length,) = LENGTH.unpack_from(data)
    entries = decode_header(data[8 : 8 + length], len(data) - 8 - length, path)
    assert set(entries) == {"a"}


def test_what_is_written_are_whole_pages_of_one_buffer(tmp_path: Path):
    seen = []

    class Sink:
        def write(self, data):
            address = np.frombuffer(data, np.uint8).__array_interface__["data"][0]
            seen.append((address, len(data)))

        def sync(self):
            pass

        close = discard = sync

    class Files(LocalFileSystem):
        def create(self, path):
            return Sink()

    arrays = {"a": np.zeros(3 * CHUNK // 4 + 8, np.float32), "b": np.zeros(5)}
    facts = write_tensors(Files(), "anywhere", arrays)
    (address,) = {address for address, _ in seen}
    assert address % mmap.PAGESIZE == 0
    assert [size for _, size in seen] == [CHUNK] * 3 + [facts.size - 3 * CHUNK]


@pytest.mark.parametrize(
    "name",
    ["", "/etc/passwd", "a/../../b", "..", "a\\b", "a\nb", "a\x00", "__metadata__"],
)
def test_names_that_could_do_harm_are_not_written(name, tmp_path: Path):
    with pytest.raises(ValueError, match="HINT: Rename"):
        written(tmp_path, **{"good": np.zeros(1), name: np.zeros(1)})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("array", [np.array(["a"]), np.array([object()])])
def test_strings_and_objects_are_not_written(array, tmp_path: Path):
    with pytest.raises(ValueError, match="'x'.*HINT: .*JSON|JSON"):
        written(tmp_path, x=array)
    assert not list(tmp_path.iterdir())


@pytest.mark.failure(2)
@pytest.mark.parametrize("reader", [read_tensors, verify_tensors])
def test_a_torn_file_is_seen(reader, tmp_path: Path):
    path, facts = written(tmp_path)
    data = Path(path).read_bytes()
    for size in (0, 1, 7, 8, 9, len(data) // 2, len(data) - 1):
        Path(path).write_bytes(data[:size])
        with pytest.raises(DamagedError, match=f"has {size} bytes"):
            reader(FILES, path, facts)
    Path(path).write_bytes(data + b"\0")
    with pytest.raises(DamagedError):
        reader(FILES, path, facts)


@pytest.mark.failure(3)
@pytest.mark.parametrize("reader", [read_tensors, verify_tensors])
def test_a_flipped_bit_is_seen_wherever_it_is(reader, tmp_path: Path):
    path, facts = written(tmp_path, a=np.arange(7, dtype=np.float32), b=np.zeros(3))
    data = Path(path).read_bytes()
    for at in range(len(data)):
        flipped = bytearray(data)
        flipped[at] ^= 1 << (at % 8)
        Path(path).write_bytes(flipped)
        with pytest.raises(DamagedError):
            reader(FILES, path, facts)
    Path(path).write_bytes(data)
    reader(FILES, path, facts)


def header(fields: object, *, text: bytes | None = None, length: int | None = None):
    """The bytes of a file with this header and 16 bytes of tensors."""
    text = json.dumps(fields).encode() if text is None else text
    size = len(text) if length is None else length
    return struct.pack("<Q", size) + text + bytes(16)


def tensor(begin: int = 0, end: int = 16, dtype: object = "F32", shape: object = (4,)):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


HOSTILE = {
    "a header of 2**63 bytes": header({}, length=2**63),
    "a header larger than the file": header({}, length=1000),
    "a header larger than allowed": header({}, length=65 << 20),
    "no JSON": header({}, text=b"\x80\x04\x95"),
    "no object": header([1]),
    "deep nesting": header({}, text=b"[" * 100_000),
    "a name twice": header({}, text=b'{"a": 1, "a": 2}'),
    "an absolute name": header({"/etc/passwd": tensor()}),
    "a climbing name": header({"a/../../b": tensor()}),
    "a control character": header({"a\x1b[2J": tensor()}),
    "an empty name": header({"": tensor()}),
    "a long name": header({"a" * 2000: tensor()}),
    "an unknown dtype": header({"a": tensor(dtype="PICKLE")}),
    "a dtype of another kind": header({"a": tensor(dtype=["F32"])}),
    "a negative size": header({"a": tensor(shape=[-4])}),
    "a size that is no integer": header({"a": tensor(shape=[4.0])}),
    "a size that is a boolean": header({"a": tensor(shape=[True])}),
    "a huge size": header({"a": tensor(shape=[2**61])}),
    "sizes whose product overflows": header({"a": tensor(shape=[2**40, 2**40])}),
    "a product of zero with huge ones": header({"a": tensor(shape=[2**63, 0])}),
    "many dimensions": header({"a": tensor(shape=[1] * 33)}),
    "offsets beyond the file": header({"a": tensor(0, 1600, shape=[400])}),
    "negative offsets": header({"a": tensor(-16, 0)}),
    "reversed offsets": header({"a": tensor(16, 0)}),
    "offsets that overlap": header({"a": tensor(), "b": tensor(0, 16)}),
    "a gap": header({"a": tensor(0, 4, shape=[1]), "b": tensor(8, 16, shape=[2])}),
    "bytes that belong to nothing": header({"a": tensor(0, 8, shape=[2])}),
    "another size than the shape": header({"a": tensor(shape=[3])}),
    "a missing field": header({"a": {"dtype": "F32", "shape": [4]}}),
    "an unknown field": header({"a": {**tensor(), "code": "x"}}),
    "no fields": header({"a": None}),
}


@pytest.mark.failure(42)
@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_file_is_rejected_before_anything_is_allocated(
    data, tmp_path: Path, monkeypatch
):
    def no_memory(*_, **__):
        raise AssertionError("memory was asked for")

    path = tmp_path / "file"
    path.write_bytes(data)
    monkeypatch.setattr(np, "empty", no_memory)
    facts = Written(len(data), "0" * 64, {"a": ("F32", (4,))}, True)
    with pytest.raises(DamagedError):
        read_tensors(FILES, str(path), facts)


def test_control_the_same_header_without_harm_is_read(tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(header({"a": tensor()}))
    facts = Written(path.stat().st_size, "0" * 64, {"a": ("F32", (4,))}, True)
    with pytest.raises(DamagedError, match="another SHA-256"):
        read_tensors(FILES, str(path), facts)


def test_other_tensors_than_the_manifest_says_are_rejected(tmp_path: Path):
    path, facts = written(tmp_path, a=np.zeros(4, np.float32))
    other = Written(facts.size, facts.sha256, {"a": ("F32", (2, 2))}, True)
    with pytest.raises(DamagedError, match="other tensors"):
        read_tensors(FILES, path, other)


@pytest.mark.failure(42)
@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_is_no_file_is_not_opened(kind, tmp_path: Path):
    import os

    path, facts = written(tmp_path)
    Path(path).rename(tmp_path / "moved")
    if kind == "link":
        os.symlink(tmp_path / "moved", path)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        os.mkdir(path)
    with pytest.raises(DamagedError, match="no regular file"):
        read_tensors(FILES, path, facts)


@pytest.mark.failure(18)
@pytest.mark.parametrize(
    "dtype",
    [np.float16, np.float32, np.float64, np.complex64, ml_dtypes.bfloat16]
    + [ml_dtypes.float8_e5m2, ml_dtypes.float8_e4m3fn],
)
def test_what_is_not_finite_is_seen(dtype):
    array = np.ones(1000, dtype)
    assert is_finite(array.view(np.uint8).data, array.dtype)
    array[500] = np.nan
    assert not is_finite(array.view(np.uint8).data, array.dtype)


@pytest.mark.failure(18)
def test_a_sum_that_overflows_is_finite_all_the_same():
    array = np.full(1000, 3e38, np.float32)
    with np.errstate(over="ignore"):
        assert not np.isfinite(array.sum())
    assert is_finite(array.view(np.uint8).data, array.dtype)


def test_header_is_padded_and_large_items_come_first():
    text, order = encode_header({"a": np.zeros(3, np.uint8), "b": np.zeros(2)})
    assert order == ["b", "a"]
    assert len(text) % 8 == 0
