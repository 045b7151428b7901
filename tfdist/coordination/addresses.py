"""Where rank 0's server may be reached, best address first."""

from __future__ import annotations

import ipaddress
import socket

import psutil


def candidates(bind_address: str | None) -> list[str]:
    """Returns the addresses at which other ranks may try this host.

    Loopback comes last: it is right only for ranks of the same host, and on
    another host it leads to somebody else, whom the handshake then refuses.

    Args:
        bind_address: The only address that is listened at, or None for all.
    """
    if bind_address is not None:
        return [bind_address]
    found = []
    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    for name, addresses in psutil.net_if_addrs().items():
        for address in addresses:
            if name in up and address.family in (socket.AF_INET, socket.AF_INET6):
                found.append(ipaddress.ip_address(address.address.partition("%")[0]))
    # A link-local address means nothing without the name of the interface.
    usable = [ip for ip in found if not ip.is_link_local and not ip.is_loopback]
    usable.sort(key=lambda ip: ip.version)
    return [*map(str, usable), "127.0.0.1"]
