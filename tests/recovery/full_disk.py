"""Saves on a disk that has less and less room, and says what came of it, as JSON.

    python -m tests.recovery.full_disk FOLDER LIMIT

`LIMIT` is "disk": the folder's file system is small, and a file takes the rest of it;
or "file": no file of this process may have more than so many bytes (RLIMIT_FSIZE).
"""

import json
import resource
import shutil
import sys
from pathlib import Path

import numpy as np

from tfdist.checkpoint.errors import CheckpointError
from tfdist.checkpoint.parts import Part
from tfdist.checkpoint.store import Store

STATE = 200_000  # bytes
ROOM = (*range(0, 16_000, 1_000), *range(16_000, 480_000, 16_000))


def part(value: float) -> Part:
    """A state, half of it the rank's own."""
    array = np.full(STATE // 16, value)
    return Part(common={"weights": array}, own={"residual": array})


def leave(folder: Path, room: int, limit: str) -> None:
    """Leaves so many bytes."""
    if limit == "file":
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
        return
    filler = folder / "filler"
    filler.unlink(missing_ok=True)
    free = shutil.disk_usage(folder).free
    filler.write_bytes(bytes(max(free - room, 0)))


def main() -> int:
    """Runs and prints."""
    folder, limit = Path(sys.argv[1]), sys.argv[2]
    store = Store(folder / "run", keep=1, heartbeat=3600.0)
    store.open()
    store.save(1, part(1.0))
    saved, errors, wrong = [1], [], []
    for step, room in enumerate(ROOM, start=2):
        leave(folder, room, limit)
        try:
            store.save(step, part(step))
            saved.append(step)
        except CheckpointError as error:
            errors.append(str(error))
        leave(folder, 1 << 20 if limit == "file" else 600_000, limit)
        found = store.good_steps()
        if found.steps[:1] != (saved[-1],):
            wrong.append(f"{room} bytes: {found} instead of {saved[-1]}")
        elif store.load(saved[-1]).common["weights"][-1] != saved[-1]:
            wrong.append(f"{room} bytes: another state")
    store.save(1000, part(0.0))
    left = [path.name for path in (folder / "run").rglob("*")]
    store.close()
    print(
        json.dumps(
            {
                "saved": len(saved),
                "errors": errors,
                "wrong": wrong,
                "left": sorted(left),
                "last": store.good_steps().steps,
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
