"""Files that go past the kernel's cache are the same files."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import sys

import pytest

from tfdist.checkpoint.local import BLOCK, LocalFileSystem

FILES = LocalFileSystem()
SIZES = (0, 1, 4096, BLOCK, BLOCK + 1, 3 * BLOCK, 3 * BLOCK + 4097)
LINUX = sys.platform == "linux"


def pages(size: int) -> memoryview:
    """Returns random bytes at the address of a page."""
    buffer = memoryview(mmap.mmap(-1, max(size, 1)))[:size]
    buffer[:] = os.urandom(size)
    return buffer


def write(path: str, *pieces: memoryview) -> None:
    sink = FILES.create(path)
    for piece in pieces:
        sink.write(piece)
    sink.sync()
    sink.close()


def read(path: str, *, cached: bool, piece: int) -> bytes:
    source = FILES.open(path, cached=cached)
    found = bytearray()
    buffer = memoryview(bytearray(piece))
    while count := source.read_into(buffer):
        found += buffer[:count]
    source.close()
    assert len(found) == source.size
    return bytes(found)


@pytest.fixture
def flags(monkeypatch):
    """Notes whether each write and read went past the cache."""
    seen = []

    def watched(real):
        def run(descriptor, data):
            seen.append(bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT))
            return real(descriptor, data)

        return run

    monkeypatch.setattr(os, "write", watched(os.write))
    monkeypatch.setattr(os, "readv", watched(os.readv))
    return seen


@pytest.mark.parametrize("size", SIZES)
def test_every_byte_arrives(size, tmp_path):
    path = str(tmp_path / "file")
    data = pages(size)
    write(path, data)
    for cached in (True, False):
        for piece in (BLOCK, 5000):
            assert read(path, cached=cached, piece=piece) == bytes(data)


def test_pieces_that_are_not_whole_blocks_are_written_all_the_same(tmp_path):
    path = str(tmp_path / "file")
    odd = pages(BLOCK + 512)[512:]  # not at the address of a page
    pieces = [pages(BLOCK), pages(7), pages(BLOCK), odd]
    write(path, *pieces)
    assert read(path, cached=True, piece=BLOCK) == b"".join(map(bytes, pieces))


@pytest.mark.skipif(not LINUX, reason="the flag is Linux's")
def test_whole_blocks_go_past_the_cache(flags, tmp_path):
    path = str(tmp_path / "file")
    try:  # as tmpfs does before Linux 6.6
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_DIRECT))
    except OSError:
        pytest.skip("this file system has nothing but its cache")
    write(path, pages(2 * BLOCK), pages(9))
    assert flags == [True, False]
    flags.clear()
    read(path, cached=False, piece=BLOCK)
    assert flags and all(flags)
    flags.clear()
    read(path, cached=True, piece=BLOCK)
    assert not any(flags)


@pytest.mark.skipif(not LINUX, reason="the flag is Linux's")
@pytest.mark.parametrize("refusing", ["the flag", "the transfer"])
def test_a_file_system_that_refuses_is_given_them_as_ever(
    refusing, monkeypatch, tmp_path
):
    path = str(tmp_path / "file")
    refused = []

    def direct(descriptor):
        return real_fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT

    def refuse():
        refused.append(True)
        raise OSError(errno.EINVAL, "refused")

    def no_flag(descriptor, command, value=0):
        if command == fcntl.F_SETFL and value & os.O_DIRECT:
            refuse()
        return real_fcntl(descriptor, command, value)

    def no_transfer(real):
        return lambda fd, data: refuse() if direct(fd) else real(fd, data)

    real_fcntl = fcntl.fcntl
    if refusing == "the flag":
        monkeypatch.setattr(fcntl, "fcntl", no_flag)
    else:
        monkeypatch.setattr(os, "write", no_transfer(os.write))
        monkeypatch.setattr(os, "readv", no_transfer(os.readv))
    data = pages(3 * BLOCK)
    write(path, data[:BLOCK], data[BLOCK:])
    assert read(path, cached=False, piece=BLOCK) == bytes(data)
    assert len(refused) == 2  # each file is tried once


def test_other_errors_are_raised(monkeypatch, tmp_path):
    def full(descriptor, data):
        raise OSError(errno.ENOSPC, "full")

    sink = FILES.create(str(tmp_path / "file"))
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="full"):
        sink.write(pages(BLOCK))
    sink.discard()
