"""Every row under every strategy of tfdist equals one process, bit-equal on all ranks.

One mode or some rows only:

    python -m pytest tests/parallel/test_matrix.py -k "horovod-gloo and accumulation"
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.parallel.compare import Verdict
from tests.parallel.launch import ROOT
from tests.parallel.modes import MODES, REFERENCE
from tests.parallel.registry import Row, load_rows

MEASURED = [name for name, mode in MODES.items() if not mode.peer and name != REFERENCE]
# `make test` runs every row under Horovod over Gloo, and in the other modes the groups
# of rows in which they could differ from it; `make test-full` runs them all.
EVERY_STRATEGY = ("partial batches", "gradients", "execution")
FAST_GROUPS = {
    "default": ("fitting",),
    "mirrored": (*EVERY_STRATEGY, "fitting", "data", "compression", "fits again"),
    "multiworker": (*EVERY_STRATEGY, "files", "custom loops"),
    "horovod-mpi": ("gradients",),
    "horovod-3": ("partial batches", "gradients"),
}
# Each of these trains three times.
FULL_GROUPS = ("recovery states",)
# The fixture `runs` launches everything before the first of these tests.
pytestmark = pytest.mark.timeout(1800)


def cells() -> list[Any]:
    """Return the cells (mode, row) of the matrix, the longer part marked `full`."""
    return [
        pytest.param(mode, name, marks=marks_of(mode, row))
        for mode in MEASURED
        for name, row in load_rows().items()
    ]


def marks_of(mode: str, row: Row) -> list[pytest.MarkDecorator]:
    marks = [] if is_fast(mode, row) else [pytest.mark.full]
    return [*marks, pytest.mark.failure(*row.proves)] if row.proves else marks


def is_fast(mode: str, row: Row) -> bool:
    if row.group in FULL_GROUPS:
        return False
    return mode not in FAST_GROUPS or row.group in FAST_GROUPS[mode]


@pytest.mark.parametrize(("mode", "row"), cells())
def test_equals_one_process(
    mode: str, row: str, verdict_of: Callable[[str, str], Verdict]
) -> None:
    """All ranks bit-identical, and equal to one process within the row's tolerance."""
    verdict = verdict_of(mode, row)
    assert verdict.allowed, f"{verdict.kind}: {verdict.detail}"


@pytest.mark.parametrize("row", ["save"])
@pytest.mark.parametrize(
    "mode",
    [
        "mirrored",
        "horovod-gloo",
        *(
            pytest.param(mode, marks=pytest.mark.full)
            for mode in ("multiworker", "horovod-mpi", "horovod-3")
        ),
    ],
)
def test_saved_model_loads_without_tfdist(mode: str, row: str, runs: Path) -> None:
    """What any strategy saved predicts the same in a process that lacks tfdist."""
    folder = runs / mode / "files" / row
    command = [sys.executable, "-m", "tests.parallel.reload", str(folder)]
    finished = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    loaded = json.loads(finished.stdout.splitlines()[-1])
    assert loaded["imported"] == [], "loading needed what is not installed there"
    assert loaded["difference"] <= 1e-6
