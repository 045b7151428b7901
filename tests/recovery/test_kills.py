"""Killed at any operation on the disk, the job goes on with the same result."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, where there is one: the disk's speed proves nothing here."""
    memory = Path("/dev/shm")
    if not memory.is_dir():
        yield tmp_path
        return
    folder = memory / f"tfdist-{tmp_path.parent.name}-{tmp_path.name}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def killed(scenario: str, place: Path, *options: str) -> Any:
    """Kills jobs from a process that can fork quickly: without TensorFlow."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.recovery.kills", str(place), scenario, *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout)
    assert result["imported"] == []
    return result


@pytest.mark.failure(1)
@pytest.mark.parametrize(
    ("scenario", "least"),
    [("fresh", 200), ("again", 180), ("chief", 150), ("other", 80)],
)
def test_a_kill_at_any_operation_loses_nothing(scenario, least, place):
    result = killed(scenario, place)
    assert result["wrong"] == []
    assert result["kills"] >= least


@pytest.mark.failure(1)
def test_control_files_that_are_overwritten_in_place_are_seen_to_break(place):
    wrong = " ".join(killed("naive", place)["wrong"])
    assert "cannot be started again" in wrong
    assert "is not what it was" in wrong
    assert "the end is another one" in wrong


@pytest.mark.full
@pytest.mark.failure(1, 30)
@pytest.mark.parametrize("scenario", ["fresh", "chief"])
def test_many_kills_at_random_times_lose_nothing(scenario, tmp_path: Path):
    """On a disk: there the time is spent where the disk is waited for."""
    result = killed(scenario, tmp_path, "--random", "300")
    assert result["wrong"] == []
    assert result["kills"] == 300
    assert result["runs"] > 0
