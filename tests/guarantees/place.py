"""One rank of a program: where it runs, and how it reports what it found."""

import argparse
import faulthandler
import functools
import json
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tfdist
from tests.parallel.modes import own_place

SEED = 1234
HANGS = 140.0  # seconds after which one measurement is ended from within


@dataclass
class Place:
    """A rank's view of its launch."""

    kind: str  # the name that tfdist.strategy takes
    out: Path  # for findings and for files; the same path on every rank
    rank: int
    size: int  # processes

    @functools.cached_property
    def strategy(self) -> tf.distribute.Strategy:
        """The strategy under test, made at its first use."""
        return self.connect()

    def connect(self) -> tf.distribute.Strategy:
        """Make a strategy, whose ledger is new: a disagreement ends the old one."""
        options = {"devices": ["CPU:0", "CPU:1"]} if self.kind == "mirrored" else {}
        return tfdist.strategy(self.kind, **options)

    def report(self, name: str, found: Any) -> None:
        """Leave this rank's findings for the test."""
        draft = self.out / f"{name}.{self.rank}.tmp"
        draft.write_text(json.dumps(found, default=lambda v: np.asarray(v).tolist()))
        draft.rename(self.out / f"{name}.{self.rank}.json")


def caught(action: Callable[[], Any]) -> dict[str, Any]:
    """Return what an action that should fail raised, and after how many seconds."""
    began = time.monotonic()
    try:
        action()
    except Exception as error:  # whatever it is, the test judges it
        return {
            "kind": type(error).__name__,
            "text": str(error),
            "seconds": time.monotonic() - began,
        }
    return {"kind": "", "text": "", "seconds": time.monotonic() - began}


def main(*measurements: Callable[[Place], Any]) -> None:
    """Take all measurements, or those that the command line names, in that order."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--strategy", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    by_name = {measure.__name__: measure for measure in measurements}
    # Ends this process even if it hangs in C++ and its launcher was killed.
    faulthandler.dump_traceback_later(HANGS, exit=True)
    if options.strategy == "mirrored":
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration()] * 2,
        )
    place = Place(options.strategy, options.out, *own_place())
    for name in options.names or by_name:
        faulthandler.dump_traceback_later(HANGS, exit=True)
        keras.utils.clear_session(free_memory=False)
        keras.utils.set_random_seed(SEED)
        try:
            place.report(name, by_name[name](place))
        except Exception:
            traceback.print_exc()
            raise SystemExit(1) from None
    faulthandler.cancel_dump_traceback_later()
