"""Checkpoints in an object store: no renames, no folders, and errors that pass."""

import sys
from typing import ClassVar

import numpy as np
import pytest

fsspec = pytest.importorskip("fsspec")
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem  # noqa: E402

from tests.recovery import job  # noqa: E402
from tfdist.checkpoint import lock, manifest, remote  # noqa: E402
from tfdist.checkpoint.errors import CheckpointError  # noqa: E402
from tfdist.checkpoint.parts import Part  # noqa: E402
from tfdist.checkpoint.places import locate  # noqa: E402
from tfdist.checkpoint.store import Store  # noqa: E402

URL = "fake://bucket/runs/digits"


class PartialFile(MemoryFile):
    """An upload that breaks after half of it, which then counts as the object."""

    def write(self, data):
        super().write(bytes(data)[: len(data) // 2])
        self.commit()
        raise OSError("the connection was reset")


class FakeStore(MemoryFileSystem):
    """An object store in memory that can be busy, forget, and break off.

    Renaming is an error: none of the real ones can do it at once.
    """

    protocol = "fake"
    store: ClassVar[dict] = {}
    pseudo_dirs: ClassVar[list] = [""]
    cachable = False
    busy: ClassVar[int] = 0  # so many calls from now on are answered with 503
    calls: ClassVar[int] = 0
    broken: ClassVar[str] = ""  # uploads of such names break off
    lag: ClassVar[str] = ""  # such names are not listed yet

    @classmethod
    def reset(cls):
        cls.store.clear()
        cls.busy = cls.calls = 0
        cls.broken = cls.lag = ""

    def _answer(self):
        FakeStore.calls += 1
        if FakeStore.busy:
            FakeStore.busy -= 1
            raise OSError("503 Slow Down")

    def ls(self, path, detail=True, **options):
        self._answer()
        found = super().ls(path, detail=detail, **options)
        return [each for each in found if not self.lag or self.lag not in str(each)]

    def info(self, path, **options):
        self._answer()
        return super().info(path, **options)

    def rm_file(self, path):
        self._answer()
        super().rm_file(path)

    def _open(self, path, mode="rb", **options):
        self._answer()
        if mode == "wb" and self.broken and self.broken in path:
            return PartialFile(self, path)
        return super()._open(path, mode=mode, **options)

    def mv(self, *_, **__):
        raise AssertionError("an object store cannot rename")

    mkdir = makedirs = rename = move = mv


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    fsspec.register_implementation("fake", FakeStore, clobber=True)
    monkeypatch.setattr(remote, "_PAUSES", (0.0, 0.0, 0.0))
    FakeStore.reset()
    yield FakeStore
    FakeStore.reset()


def opened(**options) -> Store:
    store = Store(URL, heartbeat=3600.0, **options)
    store.open()
    return store


@pytest.mark.failure(16)
@pytest.mark.parametrize("url", [URL, "memory://runs/digits-1"])
def test_a_job_goes_on_in_an_object_store(url):
    job.run(url, steps=3)
    report = job.run(url)
    assert report.loaded == 3
    assert report.loaded_digest == job.golden()[3]
    assert report.digest == job.golden()[-1]


@pytest.mark.failure(16)
def test_only_what_is_needed_is_left(fake):
    job.run(URL)
    names = [name.partition("/digits/")[2] for name in fake.store]
    kept = [f"step-{step:08d}" for step in range(1, job.STEPS + 1)][-job.KEEP :]
    assert sorted({name.partition("/")[0] for name in names}) == kept
    assert len(names) == 3 * job.KEEP  # manifest, common, rank


@pytest.mark.failure(16)
def test_the_manifest_is_the_last_object_of_a_step(fake):
    created = []
    real = FakeStore._open

    def note(self, path, mode="rb", **options):
        if mode == "wb":
            created.append(path.rpartition("/")[2])
        return real(self, path, mode=mode, **options)

    store = opened()
    fake._open = note
    try:
        store.save(1, Part(common=job.fresh().common))
    finally:
        fake._open = real
    assert created[-1] == manifest.NAME
    store.close()


@pytest.mark.failure(16)
@pytest.mark.parametrize("name", ["common", "rank-0000", "MANIFEST"])
def test_an_upload_that_breaks_off_commits_nothing(name, fake):
    store = opened()
    store.save(1, Part(common=job.fresh().common))
    fake.broken = name
    with pytest.raises(CheckpointError, match="connection was reset"):
        store.save(2, Part(common=job.fresh().common))
    fake.broken = ""
    found = store.good_steps()
    assert found.steps == (1,)
    store.save(3, Part(common=job.fresh().common))
    assert store.good_steps().steps == (3, 1)
    store.close()


@pytest.mark.failure(17)
@pytest.mark.parametrize("name", ["common", "rank-0000"])
def test_a_save_that_fails_leaves_the_object_that_it_would_replace(name, fake):
    store = opened()
    store.save(1, Part(common={"a": np.zeros(2)}))
    store.save(2, Part(common={"a": np.zeros(2)}))
    store.close()
    again = opened()
    again.load(1)
    fake.broken = name
    with pytest.raises(CheckpointError):
        again.save(2, Part(common={"a": np.ones(2)}))
    assert again.load(2).common["a"][0] == 0.0
    again.close()


@pytest.mark.failure(16)
@pytest.mark.parametrize("busy", [1, 3])
def test_a_store_that_is_busy_is_asked_again(busy, fake):
    store = opened()
    store.save(1, Part(common=job.fresh().common))
    for look in (store.steps, lambda: store.load(1), lambda: store.verify(1)):
        fake.busy = busy
        look()
        assert fake.busy == 0
    fake.busy = 1000
    with pytest.raises(CheckpointError, match="503.*\n?.*HINT"):
        store.steps()
    fake.busy = 0
    store.close()


@pytest.mark.failure(16)
def test_a_step_that_is_not_listed_yet_is_no_step(fake):
    store = opened()
    store.save(1, Part(common=job.fresh().common))
    store.save(2, Part(common=job.fresh().common))
    fake.lag = "step-00000002/MANIFEST"
    assert store.good_steps().steps == (1,)
    fake.lag = ""
    assert store.good_steps().steps == (2, 1)
    store.close()


@pytest.mark.failure(12, 16)
def test_a_second_job_is_refused(fake, monkeypatch):
    store = opened()
    monkeypatch.setattr(lock, "this_process", lambda: lock.Owner("h", "m", 1, "1"))
    monkeypatch.setattr(lock, "is_running", lambda owner: True)
    with pytest.raises(CheckpointError, match="another job"):
        opened()
    store.close()
    assert not [name for name in fake.store if name.endswith(lock.NAME)]


def test_two_ranks_meet_there():
    chief, other = Store(URL, size=2), Store(URL, rank=1, size=2)
    other.open(chief.open())
    other.save(1, Part(own=job.fresh(1).own))
    chief.save(1, Part(own=job.fresh().own, common=job.fresh().common))
    assert [len(own) for own in other.load(1).ranks] == [3, 3]
    chief.close()


def test_an_address_of_an_unknown_kind_is_told():
    with pytest.raises(ValueError, match="does not know nowhere://.*\n?HINT"):
        locate("nowhere://bucket/run")


def test_a_missing_package_is_named(monkeypatch):
    pytest.importorskip("fsspec")
    if "gcsfs" in sys.modules:
        pytest.skip("gcsfs is installed")
    with pytest.raises(ValueError, match="gs:// needs.*gcsfs.*\n?HINT.*tfdist.remote"):
        locate("gs://bucket/run")


def test_missing_fsspec_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(ValueError, match="s3:// needs.*fsspec.*\n?HINT.*tfdist.remote"):
        locate("s3://bucket/run")


def test_a_local_address_is_a_path(tmp_path):
    files, path = locate(f"file://{tmp_path}/run")
    assert files.renames and path == f"{tmp_path}/run"
