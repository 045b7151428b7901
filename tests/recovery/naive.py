"""The negative control: saves as Keras's BackupAndRestore does, in place, unverified.

Two files, the state and where the run is, each written over the old one.
"""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.recovery import job
from tests.recovery.faults import Watched
from tfdist.checkpoint.filesystem import FileSystem
from tfdist.checkpoint.local import LocalFileSystem

# What NumPy's files cannot hold is left out: the point is where bytes go.
_PLAIN = {"dense/kernel", "iterations", "residual", "mask"}


def run(
    directory: str,
    files: FileSystem | None = None,
    *,
    note: Callable[[str, int], None] = lambda event, step: None,
) -> job.Report:
    """Begins or goes on as `job.run` does."""
    files = files or Watched(LocalFileSystem())
    files.make_directory(directory, parents=True)
    state, report = job.fresh(), job.Report()
    where = Path(directory) / "where.json"
    if where.exists():
        report.loaded = state.step = json.loads(where.read_text())["step"]
        with np.load(f"{directory}/state.npz") as arrays:
            for name in _PLAIN:
                part = state.own if name in state.own else state.common
                part[name] = arrays[name]
        report.loaded_digest = state.digest()
    while state.step < job.STEPS:
        state.advance()
        note("begun", state.step)
        arrays = {**state.common, **state.own}
        data = io.BytesIO()
        np.savez(data, **{name: arrays[name] for name in _PLAIN})
        _overwrite(files, f"{directory}/state.npz", data.getvalue())
        _overwrite(files, str(where), json.dumps({"step": state.step}).encode())
        note("saved", state.step)
    report.digest = state.digest()
    return report


def names(folder: Path) -> list[str]:
    """Returns what should not be left; here that does not matter."""
    return []


def _overwrite(files: FileSystem, path: str, data: bytes) -> None:
    sink = files.create(path)
    sink.write(memoryview(data))
    sink.close()
