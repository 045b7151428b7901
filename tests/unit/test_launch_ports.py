"""Ports that no server and no outgoing connection takes in the meantime."""

import socket
from pathlib import Path

import pytest

from tfdist.launch.ports import free_ports, port_is_free


def test_free_ports_are_free_and_out_of_the_way():
    ports = free_ports(5)
    assert len(set(ports)) == 5
    lowest, highest = map(
        int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    )
    assert all(port_is_free(port) for port in ports)
    assert not any(lowest <= port <= highest for port in ports)


def test_a_taken_port_is_found():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not port_is_free(port)
        with pytest.raises(OSError, match=f"port {port} is in use"):
            free_ports(2, port)
    assert free_ports(1, port) == [port]
