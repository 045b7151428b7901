"""One process of the self-test: runs every check and leaves what it found.

    python -m tfdist.launch.selftest.program --strategy mirrored -np 2 --out FOLDER

Each rank writes `CHECK.RANK.npz` and, last, `CHECK.RANK.json` with the outcome.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

import tfdist
from tfdist import cluster
from tfdist.launch.selftest import checks
from tfdist.launch.selftest.registry import CHECKS, SINGLE

# However the launcher ended, this process does not outlive it for long.
LIMIT_SECONDS = 240.0


def main() -> int:
    """Runs the checks until one fails; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strategy", required=True)
    parser.add_argument("-np", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    faulthandler.dump_traceback_later(LIMIT_SECONDS, exit=True)
    place = None
    for check in CHECKS:
        began = time.time()
        arrays: dict[str, Any] = {}
        error = ""
        try:
            if place is None:
                place = connect(options.strategy, options.np)
            arrays = getattr(checks, check.name)(place)
        except Exception as raised:  # whatever it is, it is the check's outcome
            traceback.print_exc()
            error = f"{type(raised).__name__}: {raised}"
        # The launcher knows the rank even where the strategy could not be made.
        stem = f"{check.name}.{cluster.rank() if place is None else place.rank}"
        np.savez(options.out / f"{stem}.npz", **arrays)
        outcome = {"error": error, "began": began, "ended": time.time()}
        draft = options.out / f"{stem}.tmp"
        draft.write_text(json.dumps(outcome))
        draft.rename(options.out / f"{stem}.json")
        if error:  # the other ranks may be elsewhere by now
            return 1
    faulthandler.cancel_dump_traceback_later()
    return 0


def connect(name: str, replicas: int) -> checks.Place:
    """Returns the place under a strategy; `SINGLE` is plain Keras."""
    if name == SINGLE:
        return checks.Place(None)
    if name != "mirrored":
        strategy = tfdist.strategy(name)
        return checks.Place(strategy, cluster.rank())
    cpu = tf.config.list_physical_devices("CPU")[0]
    logical = [tf.config.LogicalDeviceConfiguration()] * replicas
    tf.config.set_logical_device_configuration(cpu, logical)
    devices = [f"CPU:{number}" for number in range(replicas)]
    return checks.Place(tfdist.strategy("mirrored", devices=devices))


if __name__ == "__main__":
    sys.exit(main())
