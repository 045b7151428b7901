"""Facts of this machine that more than one verb asks for, without TensorFlow."""

from __future__ import annotations

import importlib.util
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil


def own_names() -> frozenset[str]:
    """Returns the names and addresses that mean this machine, and need no ssh."""
    return frozenset(_own_names())


def horovod_library() -> Path | None:
    """Returns Horovod's native library for TensorFlow; None where none is built."""
    spec = importlib.util.find_spec("horovod")
    if spec is None or spec.origin is None:
        return None
    return next((Path(spec.origin).parent / "tensorflow").glob("mpi_lib*.so"), None)


def _own_names() -> Iterator[str]:
    yield from ("localhost", socket.gethostname(), socket.getfqdn())
    for addresses in psutil.net_if_addrs().values():
        for address in addresses:
            yield address.address.partition("%")[0]
