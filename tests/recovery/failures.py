"""The failures that recovery has to survive, and what must happen at each.

A test says with `@pytest.mark.failure(number)` which of them it proves.
"""

from typing import NamedTuple


class Failure(NamedTuple):
    """One row of the table."""

    group: str
    what: str
    then: str


_WRITING = "Writing"
_STATE = "All of the state"
_RANKS = "Several processes"
_LIFE = "Misfits and the life of a run"

FAILURES = {
    1: Failure(
        _WRITING,
        "killed with SIGKILL, or without power, at any operation on the disk",
        "the old step or the new one, never a mixture; the end is the same",
    ),
    2: Failure(_WRITING, "a torn tensor file", "the step before, and why"),
    3: Failure(_WRITING, "one bit flipped anywhere", "found every time"),
    4: Failure(_WRITING, "a torn or empty manifest", "the step before, and why"),
    5: Failure(
        _WRITING, "the file of one rank is missing", "all ranks take the step before"
    ),
    6: Failure(
        _WRITING,
        "the disk is full, at any operation",
        "earlier steps are intact, nothing half is left",
    ),
    7: Failure(
        _WRITING,
        "the order of syncs",
        "data, manifest, rename, folder; without one, steps are lost",
    ),
    8: Failure(
        _WRITING,
        "EIO, EACCES, a read-only or a removed directory",
        "a clear error, no half commit",
    ),
    9: Failure(
        _WRITING, "killed while a step is deleted", "the rest goes at the next start"
    ),
    10: Failure(
        _WRITING,
        "newest, every M-th and best kept",
        "exactly these; none deleted before a newer one was read back",
    ),
    11: Failure(
        _WRITING, "leftovers of crashes", "ignored; swept by the chief, under the lock"
    ),
    12: Failure(
        _WRITING,
        "two jobs or two runs in one directory; clock jumps",
        "the second is refused; the lock of a dead job is taken over",
    ),
    13: Failure(
        _WRITING,
        "saves come faster than the disk takes them",
        "one in flight, one copy in memory, waits and skips are counted",
    ),
    14: Failure(
        _WRITING, "a save fails in the background", "raised at the next step, once"
    ),
    15: Failure(
        _WRITING, "the state changes while it is written", "what was submitted is saved"
    ),
    16: Failure(
        _WRITING,
        "an object store: no rename, late listings, 503, broken uploads",
        "the manifest is the commit",
    ),
    17: Failure(_WRITING, "a save that fails", "what it would replace is not touched"),
    18: Failure(
        _WRITING,
        "infinities or NaN in the state",
        "marked or refused; the last finite step stays",
    ),
    19: Failure(
        _STATE, "layers in lists, nested, frozen; batch statistics", "bit for bit"
    ),
    20: Failure(_STATE, "optimizer slots, EMA, accumulated gradients", "bit for bit"),
    21: Failure(_STATE, "loss scale and its counters", "bit for bit"),
    22: Failure(
        _STATE, "seeds of layers, Keras, TensorFlow, NumPy, Python", "bit for bit"
    ),
    23: Failure(
        _STATE, "the position in the data", "every example of an epoch exactly once"
    ),
    24: Failure(_STATE, "callbacks and metrics in mid-epoch", "the same logs"),
    25: Failure(_STATE, "residuals and factors of each rank", "bit for bit"),
    26: Failure(_STATE, "validation, class and sample weights", "bit for bit"),
    27: Failure(
        _RANKS, "ranks disagree on the newest step", "the newest that all have"
    ),
    28: Failure(
        _RANKS, "some ranks see another, empty directory", "an error, no fresh start"
    ),
    29: Failure(_RANKS, "who writes what", "each its own file, the chief the rest"),
    30: Failure(
        _RANKS, "a rank dies between data and commit", "no step; the chief says who"
    ),
    31: Failure(_RANKS, "a slow rank", "a timeout that names it"),
    32: Failure(_RANKS, "kill -9 of any rank, at any time", "the same final weights"),
    33: Failure(
        _RANKS, "SIGTERM to one, to all, twice, at any time", "one step on all, saved"
    ),
    34: Failure(_RANKS, "SIGKILL soon after SIGTERM", "the step before"),
    35: Failure(_RANKS, "a rank hangs", "found within the limit, no half commit"),
    36: Failure(
        _RANKS, "another number of ranks", "same batches, mean residual kept; said"
    ),
    37: Failure(_RANKS, "another strategy", "equal weights, or refused by name"),
    38: Failure(
        _RANKS, "a step that always kills the job", "its own exit code in the end"
    ),
    39: Failure(
        _LIFE, "another model, dtype or optimizer", "an error, nothing assigned"
    ),
    40: Failure(_LIFE, "a newer format", "refused, with what to upgrade"),
    41: Failure(
        _LIFE,
        "a second fit, fewer epochs, early stopping, exceptions, Ctrl-C",
        "no stale epoch, nothing deleted",
    ),
    42: Failure(_LIFE, "hostile files", "rejected before anything is allocated"),
    43: Failure(_LIFE, "the cost", "measured"),
    44: Failure(_LIFE, "a place that cannot be written", "told before the first step"),
}
