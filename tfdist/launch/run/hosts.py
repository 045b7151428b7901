"""The hosts of a job: what `-H host:slots,...` says. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tfdist.launch.errors import CommandError

LOCALHOST = "localhost"

# A name or an IPv4 address; also what keeps an option out of ssh's arguments.
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?")
_HINT = "write them like -H host1:4,host2:4"


@dataclass(frozen=True)
class Host:
    """A host and how many ranks it takes."""

    name: str
    slots: int


def parse_hosts(text: str) -> tuple[Host, ...]:
    """Reads the value of `-H`.

    Args:
        text: Such as "a:4,b:4"; a host without a number has one slot.

    Raises:
        CommandError: The text is malformed, or names a host twice.

    Example:
        >>> parse_hosts("a:2,b")
        (Host(name='a', slots=2), Host(name='b', slots=1))
    """
    hosts: list[Host] = []
    for part in text.split(","):
        name, colon, slots = part.strip().partition(":")
        if not _HOST.fullmatch(name):
            raise CommandError(f"{part!r} in -H is no host.", hint=_HINT)
        if colon and not (slots.isascii() and slots.isdigit() and int(slots)):
            raise CommandError(
                f"{part!r} in -H has no positive number of slots.", hint=_HINT
            )
        if name in [host.name for host in hosts]:
            raise CommandError(
                f"The host {name!r} stands twice in -H.",
                hint="add up its slots and name it once",
            )
        hosts.append(Host(name, int(slots) if colon else 1))
    own = [host.name for host in hosts if _is_loopback(host.name)]
    if own and len(hosts) > 1:
        raise CommandError(
            f"-H names {own[0]} beside other hosts, to whom it means themselves.",
            hint="name this machine as the others know it",
        )
    return tuple(hosts)


def assign(hosts: Sequence[Host], ranks: int) -> list[tuple[str, int]]:
    """Returns the host and the local rank of every rank, filling host by host.

    It is horovodrun's order. The hosts have slots enough.

    Example:
        >>> assign([Host("a", 2), Host("b", 2)], 3)
        [('a', 0), ('a', 1), ('b', 0)]
    """
    places = [(host.name, slot) for host in hosts for slot in range(host.slots)]
    return places[:ranks]


def _is_loopback(name: str) -> bool:
    return name == LOCALHOST or name.startswith("127.")
