"""One process of a launch: runs the rows one after the other, in lock-step.

    python -m tests.parallel.worker --strategy single --out DIRECTORY [--rows 'accum*']

Each rank writes `ROW.RANK.npz` and, last, `ROW.RANK.json` with the status.
"""

import argparse
import faulthandler
import gc
import hashlib
import json
import sys
import time
import traceback
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tests.parallel import peers
from tests.parallel.modes import OUT_OF_STEP, own_place
from tests.parallel.registry import Results, Row, load_rows
from tests.parallel.setting import Rendezvous, Setting

SEED = 1234
# Raised by Python before any collective: when all ranks raise the same, they are still
# in step. After anything else the next row needs a new launch.
HARMLESS = ("ValueError", "TypeError", "AttributeError", "AssertionError")


def make_strategy(kind: str) -> tf.distribute.Strategy | None:
    """Return the strategy under test, or None for plain Keras."""
    devices = ["CPU:0", "CPU:1"]
    if kind.endswith("mirrored"):
        cpu = tf.config.list_physical_devices("CPU")[0]
        logical = [tf.config.LogicalDeviceConfiguration()] * len(devices)
        tf.config.set_logical_device_configuration(cpu, logical)
    if kind == "single":
        return None
    if kind == "plain-mirrored":
        return tf.distribute.MirroredStrategy(devices)
    if kind == "plain-multiworker":
        return tf.distribute.MultiWorkerMirroredStrategy()
    if kind == "stock-horovod":
        peers.use_stock_horovod()
        return None
    import tfdist

    options = {"devices": devices} if kind == "mirrored" else {}
    return tfdist.strategy(kind, **options)


def run_row(row: Row, setting: Setting) -> tuple[dict, Results]:
    """Return the status and the results of one row."""
    # Models of one row must not lend their names to those of the next.
    keras.utils.clear_session(free_memory=False)  # a collection costs 0.4 s
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(SEED)
    began = time.perf_counter()
    results: Results = {}
    status = {"status": "ok", "error": ""}
    try:
        results = row.run(setting)
    except Exception as error:  # a row reports any failure and never ends the suite
        traceback.print_exc()
        status = {
            "status": "refused" if "HINT:" in str(error) else "error",
            "error": f"{type(error).__name__}: {error}",
        }
    return status | {"seconds": time.perf_counter() - began}, results


def write(directory: Path, row: str, rank: int, status: dict, results: Results) -> None:
    """Write the results, then the status that says they are complete."""
    arrays: dict[str, Any] = dict(results)
    np.savez(directory / f"{row}.{rank}.npz", **arrays)
    draft = directory / f"{row}.{rank}.tmp"
    draft.write_text(json.dumps(status))
    draft.rename(directory / f"{row}.{rank}.json")


def digest(results: Mapping[str, np.ndarray]) -> str:
    """Return a hash of every byte of the results."""
    total = hashlib.sha256()
    for key in sorted(results):
        total.update(key.encode() + np.asarray(results[key]).tobytes())
    return total.hexdigest()


def mpi_disagreement(results: Results) -> str:
    """Compare the ranks' bytes through mpi4py, independently of Horovod."""
    import mpi4py

    mpi4py.rc.initialize = False  # Horovod has initialised MPI and will finalise it
    mpi4py.rc.finalize = False
    from mpi4py import MPI

    digests = MPI.COMM_WORLD.allgather(digest(results))
    if len(set(digests)) == 1:
        return ""
    different = [rank for rank, each in enumerate(digests) if each != digests[0]]
    return f"mpi4py: the bytes of ranks {different} differ from those of rank 0"


def all_exist(paths: list[Path]) -> bool:
    """Return whether every rank has finished the row."""
    return all(path.exists() for path in paths)


def in_step(outcomes: list[dict]) -> bool:
    """Return whether all ranks may go on together to the next row."""
    kinds = {each["error"].partition(":")[0] for each in outcomes}
    return kinds == {""} or (len(kinds) == 1 and kinds <= set(HARMLESS))


def main() -> int:
    """Run the chosen rows; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strategy", default="single")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", nargs="+", default=["*"])
    parser.add_argument("--row-seconds", type=float, default=60.0)
    parser.add_argument("--mpi4py", action="store_true", help="compare over MPI too")
    options = parser.parse_args()
    rank, size = own_place()
    # The watchdog ends this process even if it is stuck in C++, so nothing outlives
    # a launcher that was killed.
    faulthandler.dump_traceback_later(options.row_seconds + 30, exit=True)
    strategy = make_strategy(options.strategy)
    rendezvous = Rendezvous(options.out / "meetings", rank, size)
    (options.out / f"ready.{rank}").touch()
    rows = load_rows(options.rows)
    gc.freeze()  # what the imports left need not be looked through again and again
    for row in rows.values():
        faulthandler.dump_traceback_later(options.row_seconds, exit=True)
        directory = options.out / "files" / row.name
        directory.mkdir(parents=True, exist_ok=True)
        rendezvous.meet(f"{row.name}.start")
        setting = Setting(row.name, strategy, rank, size, directory, rendezvous)
        status, results = run_row(row, setting)
        write(options.out, row.name, rank, status, results)
        paths = [options.out / f"{row.name}.{each}.json" for each in range(size)]
        rendezvous.wait(partial(all_exist, paths))
        outcomes = [json.loads(path.read_text()) for path in paths]
        if size > 1 and not in_step(outcomes):
            (options.out / OUT_OF_STEP).touch()
            return 0
        if options.mpi4py and (difference := mpi_disagreement(results)):
            status = {"status": "error", "error": difference, "seconds": 0.0}
            write(options.out, row.name, rank, status, results)
    return 0


if __name__ == "__main__":
    code = main()
    faulthandler.cancel_dump_traceback_later()
    sys.exit(code)
