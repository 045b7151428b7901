"""The manifest: what it says comes back, and nothing else is believed."""

import hashlib
import json
import math

import numpy as np
import pytest

from tfdist.checkpoint.errors import DamagedError
from tfdist.checkpoint.manifest import (
    Manifest,
    NewerFormatError,
    decode,
    encode,
)
from tfdist.checkpoint.plain import plain_copy
from tfdist.checkpoint.tensors import Written

WRITTEN = Written(80, "ab" * 32, {"a/b": ("BF16", (2, 3)), "c": ("I64", ())}, True)
MANIFEST = Manifest(
    run_id="run-1",
    session="0123abcd",
    step=12,
    world_size=2,
    time=1.5e9,
    common="common",
    ranks=["rank-0", "rank-1"],
    files={name: WRITTEN for name in ("common", "rank-0", "rank-1")},
    details={"epoch": 3, "metrics": {"loss": 0.1 + 0.2}, "best": math.inf},
    own_details=[{"seed": 2**63}, {}],
)


def altered(**changes: object) -> bytes:
    """A manifest with other fields and the digest that belongs to them."""
    fields = json.loads(encode(MANIFEST))
    del fields["digest"]
    fields.update(changes)
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    fields["digest"] = hashlib.sha256(text.encode()).hexdigest()
    return json.dumps(fields).encode()


def test_all_of_it_comes_back_exactly():
    assert decode(encode(MANIFEST), "here") == MANIFEST


def test_control_an_alteration_with_its_digest_is_read():
    assert decode(altered(step=13), "here").step == 13


@pytest.mark.failure(4)
def test_torn_or_empty_it_is_damaged():
    data = encode(MANIFEST)
    for size in (*range(0, len(data) - 2, 7), len(data) - 2):
        with pytest.raises(DamagedError):
            decode(data[:size], "here")
    for text in (b"", b"{}", b"[]", b"null", b"\x80\x05binary", b"[" * 100_000):
        with pytest.raises(DamagedError):
            decode(text, "here")


@pytest.mark.failure(3)
def test_a_flipped_bit_is_seen_wherever_it_is():
    data = encode(MANIFEST)
    for at in range(len(data)):
        for bit in (0, 1, 4):
            flipped = bytearray(data)
            flipped[at] ^= 1 << bit
            try:
                found = decode(bytes(flipped), "here")
            except DamagedError:
                continue
            assert found == MANIFEST, (at, bit)  # white space that became another


@pytest.mark.failure(40)
def test_a_newer_format_is_refused_with_a_hint():
    newer = altered(format=2, checksums="another field")
    with pytest.raises(NewerFormatError, match="format 2.*format 1.*\n?HINT: pip"):
        decode(newer, "here")


@pytest.mark.failure(42)
@pytest.mark.parametrize(
    "changes",
    [
        {"step": -1},
        {"step": True},
        {"step": 10**18},
        {"step": "12"},
        {"world_size": 0},
        {"world_size": 3},
        {"time": math.nan},
        {"time": -1},
        {"run_id": "../x"},
        {"run_id": ""},
        {"session": None},
        {"common": "../../etc/passwd"},
        {"common": ["common"]},
        {"common": "elsewhere"},
        {"ranks": ["rank-0", "rank-0"]},
        {"ranks": ["rank-0", "/etc/passwd"]},
        {"ranks": "rank-0"},
        {"files": []},
        {"files": {"common": None, "rank-0": None, "rank-1": None}},
        {"details": []},
        {"own_details": [{}]},
        {"own_details": [1, 2]},
        {"format": 0},
        {"format": "1"},
        {"format": None},
        {"code": "import os"},
    ],
    ids=str,
)
def test_fields_that_are_wrong_are_damage(changes):
    with pytest.raises(DamagedError):
        decode(altered(**changes), "here")


@pytest.mark.failure(42)
@pytest.mark.parametrize(
    "changes",
    [
        {"size": -1},
        {"size": 2**70},
        {"sha256": "ab"},
        {"finite": 1},
        {"tensors": {"../x": ["F32", [1]]}},
        {"tensors": {"x": ["PICKLE", [1]]}},
        {"tensors": {"x": ["F32", [-1]]}},
        {"tensors": {"x": ["F32"]}},
        {"tensors": []},
        {"more": 1},
    ],
    ids=str,
)
def test_descriptions_of_files_that_are_wrong_are_damage(changes):
    files = json.loads(encode(MANIFEST))["files"]
    files["rank-1"].update(changes)
    with pytest.raises(DamagedError):
        decode(altered(files=files), "here")


def test_plain_data_is_a_copy():
    mine = {"a": [1, (2, 3)], "b": {"c": None}}
    copy = plain_copy(mine, "details")
    assert copy == {"a": [1, [2, 3]], "b": {"c": None}}
    mine["b"]["c"] = 1
    assert copy["b"] == {"c": None}


@pytest.mark.parametrize(
    "value", [np.int64(1), np.zeros(2), {1, 2}, object(), b"bytes"], ids=repr
)
def test_what_json_has_not_is_told(value):
    with pytest.raises(ValueError, match="The details.*\n?HINT: Hand arrays"):
        plain_copy({"a": value}, "details")


def test_keys_that_would_become_one_are_told():
    with pytest.raises(ValueError, match="a key comes twice"):
        plain_copy({1: "a", "1": "b"}, "details")
