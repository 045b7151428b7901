"""Ports of this machine for servers that are still to start."""

from __future__ import annotations

import random
import socket
from pathlib import Path

_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST_PORT = 10000


def free_ports(count: int, first: int | None = None) -> list[int]:
    """Returns ports of this machine that nothing uses and no connection will take.

    If the first is not given, they lie below the range from which the kernel takes
    the ports of outgoing connections, so that between now and the worker's own
    `bind` only another server can take one; and they are drawn at random, so that
    two launches rarely meet.

    Args:
        count: How many.
        first: Take this port and those that follow it.

    Raises:
        OSError: One of these is in use, or there are too few.
    """
    if first is not None:
        asked = list(range(first, first + count))
        taken = [port for port in asked if not port_is_free(port)]
        if taken:
            raise OSError(f"port {taken[0]} is in use on {socket.gethostname()}")
        return asked
    candidates = range(_LOWEST_PORT, _first_ephemeral_port())
    draws = iter(random.SystemRandom().sample(candidates, len(candidates)))
    found: list[int] = []
    for port in draws:
        if len(found) == count:
            break
        if port_is_free(port):
            found.append(port)
    if len(found) < count:
        raise OSError(f"{socket.gethostname()} has no {count} free ports")
    return found


def port_is_free(port: int) -> bool:
    """Returns whether a server could listen at a port, on all addresses."""
    with socket.socket() as probe:
        # As servers do: connections of one that has ended are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def _first_ephemeral_port() -> int:
    try:
        first = int(_EPHEMERAL.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        first = 0
    return first if first > _LOWEST_PORT + 1000 else 32768
