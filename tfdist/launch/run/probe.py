"""Runs on each other host before anything is started: `python -m ...run.probe`.

It reads one JSON object from standard input and writes one line.
"""

from __future__ import annotations

import json
import platform
import socket
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from tfdist.launch.ports import free_ports
from tfdist.launch.run.ticket import remove, store

MARK = "tfdist-probe: "  # what a login shell prints before it is passed over


def answer(question: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what was asked.

    Args:
        question: {"ports": how many, "first": None or a port, "script": its words},
            or {"store": a ticket, "path": where}, or {"remove": where}.
    """
    if "store" in question:
        store(question["store"], Path(question["path"]))
        return {}
    if "remove" in question:
        remove(Path(question["remove"]))
        return {}
    try:
        ports: dict[str, Any] = {
            "ports": free_ports(int(question["ports"]), question["first"])
        }
    except OSError as error:
        ports = {"error": str(error)}
    return facts(question["script"]) | ports


def facts(script: list[str]) -> dict[str, Any]:
    """Returns what has to be equal, or right, on every host."""
    name = socket.gethostname()
    try:
        found = socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM)
        addresses = sorted({str(each[4][0]) for each in found})
    except OSError:
        addresses = []
    return {
        "versions": versions(),
        "name": name,
        "addresses": addresses,  # that its own name resolves to
        "interfaces": interfaces(),
        "script": script[0] == "-m" or Path(script[0]).is_file(),
    }


def interfaces() -> list[str]:
    """Returns the names of the interfaces that other hosts may reach."""
    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    return sorted(
        name
        for name, addresses in psutil.net_if_addrs().items()
        if name in up
        and any(
            address.family == socket.AF_INET and not address.address.startswith("127.")
            for address in addresses
        )
    )


def versions() -> dict[str, str]:
    """Returns the versions that have to be equal on all hosts."""
    found = {"Python": ".".join(platform.python_version_tuple()[:2])}
    for title, names in (
        ("TensorFlow", ("tensorflow-cpu", "tensorflow")),
        ("Keras", ("keras",)),
        ("Horovod", ("horovod",)),
        ("tfdist", ("tfdist",)),
    ):
        found[title] = "missing"
        for name in names:
            try:
                found[title] = metadata.version(name)
            except metadata.PackageNotFoundError:
                continue
            break
    return found


if __name__ == "__main__":
    print(MARK + json.dumps(answer(json.loads(sys.stdin.readline()))), flush=True)
