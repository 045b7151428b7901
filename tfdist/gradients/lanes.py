"""Lanes: which stream of collectives a value travels in.

Within one lane, collectives run strictly one after the other on every rank, so one
lasting name serves them all; different lanes overlap. The lanes of a training step:

==========  =====================================  ==============================
lane        what travels                           when
==========  =====================================  ==============================
gradients   the first buffer of each dtype         every optimizer step
gradients2  more buffers, from 3 MB on; what       optimizer steps, if there are any
to 16       a compressor sends in other rounds
            or ways
sparse      values and row indices of gradients    optimizer steps, if there are any
control     denominators; the finite flag          uneven data, masks; loss scaling
logs        the state of all metrics               every step, after the forward pass
state       weights, once from rank 0; averages    first use of a model; epoch's end
values      what layers and user code reduce       as they ask
==========  =====================================  ==============================
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

GRADIENTS, SPARSE, CONTROL = "gradients", "sparse", "control"
LOGS, STATE, VALUES = "logs", "state", "values"
# One for each collective of a step, so that each name always carries the same shape:
# Horovod then has no need to negotiate anew.
BUFFERS = (GRADIENTS, *(f"gradients{number}" for number in range(2, 17)))
ALL = (*BUFFERS, SPARSE, CONTROL, LOGS, STATE, VALUES)

_local = threading.local()  # one replica of MirroredStrategy is one thread


def current() -> str:
    """Returns the lane that this thread's collectives take now."""
    return getattr(_local, "lane", VALUES)


@contextlib.contextmanager
def lane(name: str) -> Iterator[None]:
    """Sends this thread's collectives through the lane `name`."""
    previous = current()
    _local.lane = name
    try:
        yield
    finally:
        _local.lane = previous
