"""Whatever a disk had not written when the power went, the job goes on as it was."""

import copy
import itertools

import pytest

from tests.recovery import job
from tests.recovery.disk import Disk, losses
from tests.recovery.faults import Watched
from tfdist.checkpoint import manifest

DIRECTORY = "/runs/digits"
DRAWS = 3  # of the loss that is drawn by lot


class WithoutSync(Watched):
    """A file system on which syncing a file does nothing."""

    def create(self, path):
        sink = super().create(path)
        sink.sync = lambda: None
        return sink


class WithoutFolderSync(Watched):
    """A file system on which syncing a folder does nothing."""

    def sync_directory(self, path):
        pass


def wrong_after_power_losses(kind: type[Watched], *, enough: int = 20) -> list[str]:
    """Loses the power at every operation of one run, and goes on on what remains.

    Stops looking when enough is wrong.
    """
    golden, wrong, events = job.golden(), [], {}
    disk = Disk()
    seeds = itertools.count()

    def lose_power(number: int, operation: str, path: str, when: str) -> None:
        if when == "after" or len(wrong) >= enough:
            return  # after an operation is before the next
        saved, begun = events.get("saved"), events.get("begun")
        for draw in range(DRAWS):
            for name, choices in losses(next(seeds)).items():
                if draw and name != "some":
                    continue
                survivor = copy.deepcopy(disk).after_power_loss(*choices)
                try:
                    report = job.run(DIRECTORY, survivor)
                except Exception as error:
                    wrong.append(f"{number} {operation} {path} {name}: {error}")
                    continue
                loaded = report.loaded
                if loaded not in (saved, begun) or report.digest != golden[-1]:
                    wrong.append(f"{number} {operation} {path} {name}: {report}")
                elif loaded is not None and report.loaded_digest != golden[loaded]:
                    wrong.append(f"{number} {operation} {path} {name}: other state")

    job.run(DIRECTORY, kind(disk, lose_power), note=events.__setitem__)
    assert events == {"begun": job.STEPS, "saved": job.STEPS}
    return wrong


@pytest.mark.failure(1)
def test_no_step_that_was_saved_is_lost():
    assert wrong_after_power_losses(Watched) == []


@pytest.mark.failure(7)
@pytest.mark.parametrize("kind", [WithoutSync, WithoutFolderSync])
def test_control_without_a_sync_steps_are_lost(kind):
    assert wrong_after_power_losses(kind, enough=1) != []


@pytest.mark.failure(7)
def test_data_is_synced_before_the_manifest_and_names_after_it():
    watched = Watched(Disk())
    job.run(DIRECTORY, watched, steps=1)
    folder = f"{DIRECTORY}/step-00000001"
    mutating = [
        (operation, path.removeprefix(f"{folder}/"))
        for operation, path in watched.done
        if path.startswith(DIRECTORY)
        and operation in ("create", "sync", "replace", "sync_directory")
        and "LOCK" not in path
        and "probe" not in path
    ]
    own = next(path for _, path in mutating if path.startswith("rank"))
    common = next(path for _, path in mutating if path.startswith("common"))
    assert [pair for pair in mutating if pair != ("sync_directory", folder)][-8:] == [
        ("create", own),
        ("sync", own),
        ("create", common),
        ("sync", common),
        ("sync_directory", DIRECTORY),
        ("create", f"{manifest.NAME}.tmp"),
        ("sync", f"{manifest.NAME}.tmp"),
        ("replace", manifest.NAME),
    ]
    after = mutating[mutating.index(("replace", manifest.NAME)) + 1]
    assert after == ("sync_directory", folder)
