"""A disk that fails: a clear error, nothing half, and the job can go on."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.recovery import job
from tests.recovery.disk import Disk
from tests.recovery.faults import READING, WITHIN, Watched
from tfdist.checkpoint.errors import CheckpointError
from tfdist.checkpoint.local import LocalFileSystem
from tfdist.checkpoint.parts import Part
from tfdist.checkpoint.store import Store

DIRECTORY = "/runs/digits"
ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES)


def failing_at(number: int, code: int) -> Callable[[int, str, str, str], None]:
    """Returns what lets one operation fail, a write after half of it."""

    def happening(current: int, operation: str, path: str, when: str) -> None:
        at = WITHIN if operation == "write" else "before"
        if current == number and when == at:
            raise OSError(code, os.strerror(code), path)

    return happening


def operations() -> list[tuple[str, str]]:
    watched = Watched(Disk())
    job.run(DIRECTORY, watched)
    return watched.done


@pytest.mark.failure(6, 8)
@pytest.mark.parametrize("code", ERRORS, ids=errno.errorcode.get)
def test_an_error_at_any_operation_is_clear_and_spoils_nothing(code):
    golden = job.golden()
    raised = 0
    for number, (operation, path) in enumerate(operations()):
        if code != errno.EIO and operation in READING:
            continue  # reading needs no room, and what was written can be read
        disk, events = Disk(), {}
        place = f"{number} {operation} {path}"
        try:
            watched = Watched(disk, failing_at(number, code))
            job.run(DIRECTORY, watched, note=events.__setitem__)
        except CheckpointError as error:
            raised += 1
            assert "HINT: " in str(error), place
            assert os.strerror(code) in str(error), place
        report = job.run(DIRECTORY, disk)
        # "begun": the error came after the manifest, when only old files were left.
        assert report.loaded in (events.get("saved"), events.get("begun")), place
        assert report.digest == golden[-1], place
        if report.loaded is not None:
            assert report.loaded_digest == golden[report.loaded], place
        assert not [name for name in all_names(disk) if name.endswith(".tmp")], place
    assert raised > 80


def all_names(disk: Disk) -> list[str]:
    steps = [name for name in disk.names(DIRECTORY) if name.startswith("step")]
    inside = [name for step in steps for name in disk.names(f"{DIRECTORY}/{step}")]
    return disk.names(DIRECTORY) + inside


@pytest.mark.failure(6, 14)
def test_training_can_go_on_after_a_save_that_failed():
    """The same store saves later steps; what failed leaves nothing of its own."""
    for number, (operation, path) in enumerate(operations()):
        if "step-00000003" not in path or operation in ("names", "open", "read"):
            continue
        disk = Disk()
        watched = Watched(disk)
        store = Store(DIRECTORY, filesystem=watched, keep=2, heartbeat=3600.0)
        store.open()
        state = job.fresh()
        watched.happening = failing_at(number, errno.ENOSPC)
        failures = 0
        for _ in range(job.STEPS):
            state.advance()
            try:
                for part in job.parts_of(state, state.common):
                    store.save(state.step, part)
            except CheckpointError:
                failures += 1
        assert failures <= 1, (operation, path)
        good = store.good_steps()
        assert good.steps[0] == job.STEPS and not good.rejected, (operation, path)
        loaded = job.restored(store.load(job.STEPS), 0)
        assert loaded.digest() == state.digest()
        store.close()


@pytest.mark.failure(8)
def test_a_directory_that_is_removed_is_told(tmp_path: Path):
    store = Store(tmp_path / "run", heartbeat=3600.0)
    store.open()
    store.save(1, Part(common=job.fresh().common))
    LocalFileSystem().replace(str(tmp_path / "run"), str(tmp_path / "moved"))
    with pytest.raises(CheckpointError, match="was removed or emptied") as caught:
        store.save(2, Part(common=job.fresh().common))
    assert "HINT: " in str(caught.value)
    assert not (tmp_path / "run").exists()
    store.close()


@pytest.mark.failure(8)
def test_a_directory_that_is_removed_is_told_to_other_ranks(tmp_path: Path):
    chief = Store(tmp_path / "run", size=2, heartbeat=3600.0)
    other = Store(tmp_path / "run", rank=1, size=2)
    other.open(chief.open())
    LocalFileSystem().replace(str(tmp_path / "run"), str(tmp_path / "moved"))
    with pytest.raises(CheckpointError, match="No such file.*\n?.*HINT: Leave"):
        other.save(2, Part(own=job.fresh(1).own))
    assert not (tmp_path / "run").exists()
    chief.close()


@pytest.mark.failure(44)
def test_a_place_that_cannot_be_used_fails_before_the_first_step(tmp_path: Path):
    (tmp_path / "file").write_text("mine\n")
    for place in ("file", "file/run"):
        with pytest.raises(CheckpointError, match="HINT: Choose a folder"):
            Store(tmp_path / place).open()
    assert (tmp_path / "file").read_text() == "mine\n"


@pytest.mark.failure(44)
def test_a_read_only_directory_fails_before_the_first_step():
    class ReadOnly(Disk):
        def create(self, path):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)

    with pytest.raises(CheckpointError, match="Read-only.*\n?.*HINT: Make"):
        Store(DIRECTORY, filesystem=ReadOnly()).open()
