"""A disk that is really full: earlier steps stay, and later ones are saved."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = 'mount -t tmpfs -o size=1m none "$1" && shift && exec "$@"'


def saved_on(folder: Path, limit: str, *prefix: str):
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "tests.recovery.full_disk", str(folder), limit],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def check(found, reason: str) -> None:
    assert found["wrong"] == []
    assert found["saved"] > 1  # the control: with enough room it is saved
    assert len(found["errors"]) > 10
    for error in found["errors"]:
        assert reason in error and "HINT: Free space" in error
    assert found["last"] == [1000]
    names = [name.partition("-0000")[0].partition("-")[0] for name in found["left"]]
    assert sorted(names) == ["LOCK", "MANIFEST.json", "common", "rank", "step"]


@pytest.mark.failure(6)
def test_a_limit_on_the_size_of_files(tmp_path: Path):
    check(saved_on(tmp_path, "file"), "File too large")


@pytest.mark.failure(6)
def test_a_file_system_of_one_megabyte(tmp_path: Path):
    unshare = shutil.which("unshare")
    own = [unshare or "unshare", "--mount", "sh", "-ec", SMALL, "sh", str(tmp_path)]
    if os.getuid() or not unshare or subprocess.run([*own, "true"]).returncode:
        pytest.skip("needs root and a mount namespace of its own")
    check(saved_on(tmp_path, "disk", *own), "No space left on device")
