"""Reads what several verbs take: numbers of ranks, and hosts as horovodrun does."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tfdist.launch.errors import CommandError

# A name or an address. A leading dash would be an option of ssh.
_HOST = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.-]*)(?::([0-9]+))?")


@dataclass(frozen=True)
class Host:
    """One host and how many ranks it is to run."""

    name: str
    slots: int = 1


def parse_hosts(text: str, option: str = "-H") -> tuple[Host, ...]:
    """Returns the hosts of `host:slots,...`; a host without slots has one.

    Raises:
        CommandError: If a part cannot be read, or a host is there twice.

    Example:
        >>> parse_hosts("a:4,b")
        (Host(name='a', slots=4), Host(name='b', slots=1))
    """
    hosts = []
    for part in text.split(","):
        match = _HOST.fullmatch(part.strip())
        if match is None or match[2] == "0":
            raise CommandError(
                f"{option}: cannot read {part!r}; expected HOST or HOST:SLOTS.",
                hint=f"{option} host1:2,host2:2",
            )
        hosts.append(Host(match[1], int(match[2] or 1)))
    names = [host.name for host in hosts]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        slots = sum(host.slots for host in hosts if host.name == twice)
        raise CommandError(
            f"{option}: {twice} is there twice.", hint=f"{option} {twice}:{slots},..."
        )
    return tuple(hosts)


def parse_ranks(text: str, option: str) -> int:
    """Returns a positive whole number of ranks.

    Raises:
        CommandError: If it is not one.
    """
    if not (text.isascii() and text.isdecimal()) or int(text) < 1:
        raise CommandError(
            f"{option}: expected a whole number of at least 1, received {text!r}.",
            hint=f"{option} 2",
        )
    return int(text)
