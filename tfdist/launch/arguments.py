"""Reads what several verbs take: numbers of ranks, and hosts as horovodrun does."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tfdist.launch.errors import CommandError

# A name or an IPv4 address; also what keeps an option out of ssh's arguments.
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?")
_HINT = "write them like -H host1:4,host2:4"


@dataclass(frozen=True)
class Host:
    """A host and how many ranks it takes."""

    name: str
    slots: int = 1


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
        if colon and not _is_positive(slots):
            raise CommandError(
                f"{part!r} in -H has no positive number of slots.", hint=_HINT
            )
        if name in [host.name for host in hosts]:
            raise CommandError(
                f"The host {name!r} stands twice in -H.",
                hint="add up its slots and name it once",
            )
        hosts.append(Host(name, int(slots) if colon else 1))
    return tuple(hosts)


def parse_ranks(text: str, option: str) -> int:
    """Returns a positive whole number of ranks.

    Raises:
        CommandError: If it is not one.
    """
    if not _is_positive(text):
        raise CommandError(
            f"{option}: expected a whole number of at least 1, received {text!r}.",
            hint=f"{option} 2",
        )
    return int(text)


def _is_positive(text: str) -> bool:
    return text.isascii() and text.isdecimal() and int(text) > 0
