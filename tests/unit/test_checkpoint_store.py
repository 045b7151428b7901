"""A directory of checkpoints: what is there, whose it is, and what falls back."""

import contextlib
import json
import os
import stat
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from tests.recovery.faults import Watched
from tfdist.checkpoint import keeper, lock, manifest, parts
from tfdist.checkpoint import store as stores
from tfdist.checkpoint.directory import Directory
from tfdist.checkpoint.errors import CheckpointError, DamagedError, OccupiedError
from tfdist.checkpoint.local import LocalFileSystem
from tfdist.checkpoint.parts import Part
from tfdist.checkpoint.store import Store


def part(step: int, rank: int = 0) -> Part:
    return Part(
        common={"kernel": np.full((2, 3), step, np.float32)} if rank == 0 else {},
        own={"residual": np.full(4, 10 * rank + step, np.float64)},
        details={"epoch": step // 2} if rank == 0 else {},
        own_details={"rank": rank},
    )


def opened(folder: Path, **options) -> Store:
    store = Store(folder, **options)
    store.open()
    return store


def filled(folder: Path, *steps: int, **options) -> Store:
    store = opened(folder, **{"keep": 9, **options})
    for step in steps:
        store.save(step, part(step))
    return store


def pair(folder: Path, **options) -> tuple[Store, Store]:
    """The stores of a job of two ranks, open."""
    chief = Store(folder, rank=0, size=2, **options)
    other = Store(folder, rank=1, size=2, **options)
    other.open(chief.open())
    return chief, other


def save_both(stores_: tuple[Store, Store], step: int) -> None:
    stores_[1].save(step, part(step, 1))
    stores_[0].save(step, part(step, 0))


def test_what_is_saved_is_loaded(tmp_path: Path):
    store = filled(tmp_path / "a" / "b", 3, 5)
    assert store.good_steps() == stores.Verified((5, 3), {})
    found = store.load(5)
    np.testing.assert_array_equal(found.common["kernel"], np.full((2, 3), 5.0))
    np.testing.assert_array_equal(found.ranks[0]["residual"], np.full(4, 5.0))
    assert found.manifest.details == {"epoch": 2}
    assert found.manifest.own_details == [{"rank": 0}]
    assert found.manifest.run_id == store.run_id
    store.close()


def test_only_this_user_can_read_it(tmp_path: Path):
    filled(tmp_path / "a" / "b", 1).close()
    for path in (tmp_path / "a").rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700


def test_two_ranks_save_one_step(tmp_path: Path):
    both = pair(tmp_path)
    save_both(both, 4)
    for store in both:
        found = store.load(4)
        assert [each["residual"][0] for each in found.ranks] == [4.0, 14.0]
        assert found.manifest.own_details == [{"rank": 0}, {"rank": 1}]
        assert found.manifest.world_size == 2
    both[0].close()


@pytest.mark.failure(29)
def test_other_ranks_write_their_own_files_only(tmp_path: Path):
    chief = Store(tmp_path, size=2)
    watched = Watched(LocalFileSystem())
    other = Store(tmp_path, rank=1, size=2, filesystem=watched)
    other.open(chief.open())
    other.save(1, part(1, 1))
    chief.save(1, part(1))
    written = {
        os.path.basename(path)
        for operation, path in watched.done
        if operation == "create"
    }
    assert all("rank-0001" in name or "probe" in name for name in written)
    chief.close()


@pytest.mark.failure(30)
@pytest.mark.failure(31)
def test_a_missing_rank_is_named(tmp_path: Path):
    chief, _ = pair(tmp_path, timeout=0.05)
    with pytest.raises(CheckpointError, match="nothing from rank 1 within 0.05 s"):
        chief.save(1, part(1))
    assert chief.steps() == ()
    chief.close()


@pytest.mark.failure(30)
def test_a_rank_that_cannot_save_tells_the_chief(tmp_path: Path):
    chief, other = pair(tmp_path, timeout=60.0, finite_only=True)
    with pytest.raises(CheckpointError, match="not finite"):
        other.save(1, Part(own={"residual": np.array([np.nan])}))
    assert not list(tmp_path.glob("step-00000001/*.safetensors"))
    with pytest.raises(
        CheckpointError, match=r"Rank 1 could not save\.(.|\n)*not finite(.|\n)*HINT: "
    ):
        chief.save(1, part(1))
    assert chief.steps() == ()
    save_both((chief, other), 2)
    assert chief.steps() == (2,)
    assert not list(tmp_path.glob("step-00000001"))
    chief.close()


@pytest.mark.failure(30)
def test_what_a_killed_job_left_is_not_taken_for_a_rank_s_part(tmp_path: Path):
    killed, other = pair(tmp_path)
    other.save(1, part(1, 1))  # and then both are killed
    chief, other = pair(tmp_path, timeout=0.05)
    with pytest.raises(CheckpointError, match="rank 1"):
        chief.save(1, part(1))
    save_both((chief, other), 1)
    assert chief.good_steps().steps == (1,)
    chief.close()
    killed.close()


@pytest.mark.failure(5)
def test_a_missing_file_of_a_rank_makes_all_fall_back(tmp_path: Path):
    both = pair(tmp_path)
    save_both(both, 1)
    save_both(both, 2)
    next(tmp_path.glob("step-00000002/rank-0001*")).unlink()
    for store in both:
        found = store.good_steps()
        assert found.steps == (1,)
        assert "rank-0001-of-0002" in found.rejected[2]
        assert "missing" in found.rejected[2]
    both[0].close()


@pytest.mark.failure(28)
def test_a_rank_that_sees_another_directory_is_told(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(stores, "SEE_SECONDS", 0.05)
    chief = Store(tmp_path / "one", size=2)
    other = Store(tmp_path / "two", rank=1, size=2)
    session = chief.open()
    with pytest.raises(OccupiedError, match="Rank 1 sees another directory.*\n?HINT"):
        other.open(session)
    assert not (tmp_path / "two").exists()
    chief.close()


@pytest.mark.failure(2)
@pytest.mark.parametrize("name", ["common", "rank-0000", "MANIFEST"])
def test_a_torn_file_falls_back(name, tmp_path: Path):
    store = filled(tmp_path, 1, 2)
    path = next(tmp_path.glob(f"step-00000002/{name}*"))
    data = path.read_bytes()
    for size in (0, 1, len(data) // 2, len(data) - 2):
        path.write_bytes(data[:size])
        found = store.good_steps()
        assert found.steps == (1,), size
        assert path.name in found.rejected[2]
    path.write_bytes(data)
    assert store.good_steps().steps == (2, 1)
    store.close()


@pytest.mark.failure(3)
@pytest.mark.parametrize("name", ["common", "rank-0000", "MANIFEST"])
def test_a_flipped_bit_falls_back(name, tmp_path: Path):
    store = filled(tmp_path, 1, 2)
    path = next(tmp_path.glob(f"step-00000002/{name}*"))
    data = path.read_bytes()
    for at in range(0, len(data), 5):
        flipped = bytearray(data)
        flipped[at] ^= 4
        path.write_bytes(flipped)
        assert 1 in store.good_steps().steps
        if name != "MANIFEST" or flipped.split() != data.split():
            assert store.good_steps().steps == (1,), at
    store.close()


@pytest.mark.failure(4)
@pytest.mark.parametrize("content", [b"", b"{}", b"\x00\xff", b"null"])
def test_a_manifest_that_is_none_falls_back(content, tmp_path: Path):
    store = filled(tmp_path, 1, 2)
    (tmp_path / "step-00000002" / manifest.NAME).write_bytes(content)
    found = store.good_steps()
    assert found.steps == (1,) and manifest.NAME in found.rejected[2]
    with pytest.raises(DamagedError):
        store.load(2)
    store.close()
    again = opened(tmp_path)
    assert again.good_steps().steps == (1,)
    again.close()


@pytest.mark.failure(42)
def test_a_manifest_of_another_step_falls_back(tmp_path: Path):
    store = filled(tmp_path, 1)
    LocalFileSystem().replace(f"{tmp_path}/step-00000001", f"{tmp_path}/step-00000007")
    assert store.good_steps().rejected.keys() == {7}
    store.close()


@pytest.mark.failure(42)
def test_a_folder_that_is_a_link_is_no_step(tmp_path: Path):
    store = filled(tmp_path / "run", 1)
    (tmp_path / "run" / "step-00000001").rename(tmp_path / "elsewhere")
    (tmp_path / "run" / "step-00000001").symlink_to(tmp_path / "elsewhere")
    assert store.steps() == ()
    store.close()
    again = opened(tmp_path / "run")
    assert len(list((tmp_path / "elsewhere").iterdir())) == 3
    again.close()


@pytest.mark.failure(9)
def test_a_step_whose_deletion_was_interrupted_is_swept(tmp_path: Path):
    filled(tmp_path, 1, 2).close()
    (tmp_path / "step-00000001" / manifest.NAME).unlink()
    again = opened(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"step-00000002", lock.NAME}
    again.close()


@pytest.mark.failure(11)
def test_what_crashes_left_is_swept_by_the_chief_alone(tmp_path: Path):
    filled(tmp_path, 1).close()
    left = [
        "step-00000002/common-0000000a.safetensors",
        "step-00000002/rank-0000-of-0001-0000000b.safetensors.json",
        "step-00000003/MANIFEST.json.tmp",
        "step-00000001/rank-0000-of-0001-0000000c.safetensors",
        "probe-0000000a",
        "probe-0000000a-1.tmp",
        "LOCK.tmp",
    ]
    mine = ["notes.txt", "step-00000002/plot.png", "step-1/common-0000000a.safetensors"]
    for name in left + mine:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    chief = Store(tmp_path, size=2)
    session = lock.new_session()
    record = lock.Record("run", lock.session_name(session), lock.this_process())
    (tmp_path / lock.NAME).write_text(json.dumps(asdict(record)))
    other = Store(tmp_path, rank=1, size=2)
    other.open(session)
    assert all((tmp_path / name).exists() for name in left)
    chief.open()
    assert not [name for name in left if (tmp_path / name).exists()]
    assert all((tmp_path / name).exists() for name in mine)
    assert chief.good_steps().steps == (1,)
    chief.close()


@pytest.mark.failure(11)
def test_a_job_that_is_refused_sweeps_nothing(tmp_path: Path, monkeypatch):
    first = pair(tmp_path)
    first[1].save(1, part(1, 1))
    before = sorted(path.name for path in tmp_path.rglob("*"))
    monkeypatch.setattr(lock, "this_process", lambda: lock.Owner("h", "m", 1, "1"))
    monkeypatch.setattr(lock, "is_running", lambda owner: True)
    with pytest.raises(OccupiedError):
        Store(tmp_path).open()
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    first[0].save(1, part(1))
    first[0].close()


@pytest.mark.failure(10)
def test_nothing_is_deleted_before_a_newer_step_was_read_back(tmp_path: Path):
    class Rotten(LocalFileSystem):
        """Flips a bit of what is written, and says that all is well."""

        rotten = False

        def create(self, path):
            sink = super().create(path)
            if self.rotten and "common" in path:
                write = sink.write
                sink.write = lambda data: write(bytes(data[:-1]) + b"\xff")
            return sink

    files = Rotten()
    store = filled(tmp_path, 1, keep=1, filesystem=files)
    files.rotten = True
    with pytest.raises(CheckpointError, match="Step 2 reads back damaged.*\n?HINT"):
        store.save(2, part(2))
    assert store.steps() == (1,)
    files.rotten = False
    store.save(3, part(3))
    assert store.steps() == (3,)
    store.close()


@pytest.mark.failure(10)
def test_with_several_kept_not_every_step_is_read_back(tmp_path: Path, monkeypatch):
    read = []
    real = Directory.verify

    def verify(self, step):
        read.append(step)
        return real(self, step)

    monkeypatch.setattr(keeper.Directory, "verify", verify)
    filled(tmp_path, *range(1, 11), keep=3).close()
    assert read == [4, 7, 10]


@pytest.mark.failure(18)
def test_a_state_that_is_not_finite_is_marked_and_the_last_finite_one_kept(tmp_path):
    store = filled(tmp_path, 1, 2, keep=2)
    for step in (3, 4, 5):
        store.save(step, Part(common={"kernel": np.array([1.0, np.inf])}))
    assert store.steps() == (5, 4, 2)
    assert not store.load(5).manifest.finite
    assert store.load(2).manifest.finite
    store.close()


@pytest.mark.failure(18)
def test_a_state_that_is_not_finite_is_refused_where_asked_for(tmp_path: Path):
    store = filled(tmp_path, 1, finite_only=True)
    with pytest.raises(CheckpointError, match="not finite.*\n?HINT"):
        store.save(2, Part(common={"kernel": np.array([1.0, np.nan])}))
    assert store.steps() == (1,)
    store.close()


def test_a_run_goes_on_under_its_name(tmp_path: Path):
    first = filled(tmp_path, 1)
    first.close()
    again = opened(tmp_path)
    assert again.run_id == first.run_id
    again.close()


@pytest.mark.failure(12)
def test_another_run_is_refused(tmp_path: Path):
    filled(tmp_path, 1, run_id="mine").close()
    with pytest.raises(OccupiedError, match="run_id='yours'.*'mine'.*\n?HINT"):
        Store(tmp_path, run_id="yours").open()
    assert not (tmp_path / lock.NAME).exists()


@pytest.mark.failure(12)
def test_a_step_of_another_run_is_not_taken(tmp_path: Path):
    filled(tmp_path / "one", 1, run_id="one").close()
    filled(tmp_path / "two", 2, run_id="two").close()
    (tmp_path / "one" / "step-00000001").rename(tmp_path / "two" / "step-00000001")
    store = opened(tmp_path / "two")
    assert store.good_steps() == stores.Verified((2,), {1: "step 1 is of the run one"})
    store.close()


@pytest.mark.failure(40)
def test_a_newer_format_is_refused_and_nothing_falls_back(tmp_path, monkeypatch):
    filled(tmp_path, 1).close()
    monkeypatch.setattr(
        manifest.Manifest, "__init__", newer(manifest.Manifest.__init__)
    )
    filled(tmp_path, 2).close()
    monkeypatch.undo()
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(manifest.NewerFormatError, match="HINT: pip install"):
        Store(tmp_path).open()
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def newer(real):
    return lambda self, **fields: real(self, **{**fields, "format": 2})


def test_a_step_that_is_there_is_not_saved_again(tmp_path: Path):
    store = filled(tmp_path, 1)
    before = (tmp_path / "step-00000001" / manifest.NAME).read_bytes()
    store.save(1, part(2))
    store.close()
    again = opened(tmp_path)
    again.load(1)
    again.save(1, part(2))
    assert (tmp_path / "step-00000001" / manifest.NAME).read_bytes() == before
    again.close()


def test_a_step_of_an_earlier_session_is_replaced(tmp_path: Path):
    filled(tmp_path, 1, 2).close()
    again = opened(tmp_path)
    again.load(1)
    again.save(2, part(7))
    assert again.load(2).common["kernel"][0, 0] == 7.0
    assert len(list((tmp_path / "step-00000002").iterdir())) == 3
    again.close()


def test_a_step_of_this_session_is_replaced_once_by_a_part_that_says_so(tmp_path):
    both = pair(tmp_path, keep=1)
    save_both(both, 1)
    for value in (7, 8):
        replacing = [replace(part(value, rank), replaces=True) for rank in range(2)]
        both[1].save(1, replacing[1])
        both[0].save(1, replacing[0])
    found = both[0].load(1)
    assert found.common["kernel"][0, 0] == 7.0
    assert [each["residual"][0] for each in found.ranks] == [7.0, 17.0]
    assert len(list((tmp_path / "step-00000001").iterdir())) == 4
    both[0].close()


def test_a_rank_may_hand_in_what_replaces_a_step_before_that_is_committed(tmp_path):
    chief, other = pair(tmp_path, timeout=1.0)
    for replaces in (False, True):
        other.save(1, replace(part(1, 1), replaces=replaces))
    for replaces in (False, True):
        chief.save(1, replace(part(1), replaces=replaces))
    assert chief.good_steps().steps == (1,)
    assert len(list((tmp_path / "step-00000001").iterdir())) == 4
    chief.close()


@pytest.mark.failure(10, 17)
@pytest.mark.parametrize("broken", [False, True])
def test_a_step_is_not_replaced_by_what_reads_back_damaged(
    tmp_path, monkeypatch, broken
):
    store = filled(tmp_path, 1)
    write = parts.write_tensors

    def flipped(files, path, arrays):
        written = write(files, path, arrays)
        data = bytearray(Path(path).read_bytes())
        data[-1] ^= broken
        Path(path).write_bytes(data)
        return written

    monkeypatch.setattr(parts, "write_tensors", flipped)
    expected = pytest.raises(CheckpointError, match=r"another SHA-256(.|\n)*HINT: ")
    with expected if broken else contextlib.nullcontext():
        store.save(1, replace(part(7), replaces=True))
    assert store.load(1).common["kernel"][0, 0] == (1.0 if broken else 7.0)
    assert len(list((tmp_path / "step-00000001").iterdir())) == 3
    store.close()


@pytest.mark.failure(17)
def test_a_save_that_fails_does_not_touch_the_step_that_it_would_replace(tmp_path):
    filled(tmp_path, 1, 2).close()
    again = opened(tmp_path)
    with pytest.raises(ValueError, match="cannot be written"):
        again.save(2, Part(common={"kernel": np.array(["text"])}))
    assert again.good_steps().steps == (2, 1)
    assert again.load(2).common["kernel"][0, 0] == 2.0
    assert len(list((tmp_path / "step-00000002").iterdir())) == 3
    again.close()


@pytest.mark.failure(12)
@pytest.mark.parametrize("now", [-1e9, 0.0, 1e12])
def test_a_clock_that_says_nonsense_changes_nothing(now, tmp_path, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: now)
    store = filled(tmp_path, 1)
    assert store.good_steps().steps == (1,)
    store.close()


def test_a_rank_without_the_chief_s_session_is_told(tmp_path: Path):
    with pytest.raises(ValueError, match="the session that rank 0 returns"):
        Store(tmp_path, rank=1, size=2).open()


def test_a_store_that_is_not_open_saves_nothing(tmp_path: Path):
    with pytest.raises(RuntimeError, match="HINT: Call open"):
        Store(tmp_path).save(1, part(1))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"keep": 0}, "keep"),
        ({"keep": -1}, "keep"),
        ({"keep_every": 0}, "keep_every"),
        ({"rank": 1}, "rank"),
        ({"rank": -1}, "rank"),
        ({"size": 0}, "size"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": float("inf")}, "timeout"),
        ({"heartbeat": "2"}, "heartbeat"),
        ({"run_id": "../x"}, "run_id"),
        ({"run_id": ""}, "run_id"),
        ({"run_id": 7}, "run_id"),
    ],
    ids=str,
)
def test_wrong_arguments_are_told(options, named, tmp_path: Path):
    with pytest.raises(ValueError, match=f"Wrong {named}\\..*\n?HINT"):
        Store(tmp_path, **options)


@pytest.mark.parametrize(("directory", "kind"), [("", ValueError), (None, TypeError)])
def test_a_directory_must_be_named(directory, kind):
    with pytest.raises(kind, match="HINT: Pass a folder"):
        Store(directory)


@pytest.mark.parametrize("step", [-1, 1.0, True, "1", 10**18])
def test_wrong_steps_are_told(step, tmp_path: Path):
    store = opened(tmp_path)
    with pytest.raises(ValueError, match="Wrong step"):
        store.save(step, part(1))
    store.close()


@pytest.mark.failure(13)
def test_a_chief_waits_for_a_slow_rank(tmp_path: Path):
    chief, other = pair(tmp_path)
    begun = threading.Event()

    def save_late() -> None:
        assert begun.wait(30)
        other.save(1, part(1, 1))

    late = threading.Thread(target=save_late)
    late.start()
    real = chief._files.names

    def names(path: str) -> list[str]:
        begun.set()
        return real(path)

    chief._files.names = names
    chief.save(1, part(1))
    late.join(30)
    assert chief.good_steps().steps == (1,)
    chief.close()
