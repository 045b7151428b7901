"""How the training of `training.py` is launched, and what its ranks have printed."""

import re
from collections.abc import Sequence

STRATEGIES = {
    "gloo": ("-np", "2", "--strategy", "horovod"),
    "mpi": ("-np", "2", "--strategy", "horovod", "--controller", "mpi"),
    "multiworker": ("-np", "2", "--strategy", "multiworker"),
    "mirrored": ("-np", "2", "--strategy", "mirrored"),
    "default": ("-np", "1"),
}
INTERVAL = 4  # steps between two checkpoints

_HASH = re.compile(r"^hash (\w+)$", re.MULTILINE)
_RESUMED = re.compile(r"^resumed (\d+)$", re.MULTILINE)


def processes(strategy: str) -> int:
    """Return how many processes a key of `STRATEGIES` has."""
    return 1 if strategy in ("mirrored", "default") else 2


def common_hash(logs: Sequence[str]) -> str:
    """Return the hash that every rank has printed once; "" if they have not."""
    found = [_HASH.findall(log) for log in logs]
    return found[0][0] if found[0] and all(one == found[0] for one in found) else ""


def resumed(log: str) -> int | None:
    """Return the step after which a start went on; None if it came to none."""
    found = _RESUMED.search(log)
    return None if found is None else int(found[1])
