"""Which ranks run on which hosts, and hosts that cannot form a job. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from tfdist.launch.arguments import Host
from tfdist.launch.errors import CommandError

LOCALHOST = "localhost"


def check_hosts(hosts: Sequence[Host]) -> None:
    """Refuses a loopback name among several hosts.

    Raises:
        CommandError: It would mean another machine on each of them.
    """
    own = [host.name for host in hosts if _is_loopback(host.name)]
    if own and len(hosts) > 1:
        raise CommandError(
            f"-H names {own[0]} beside other hosts, to whom it means themselves.",
            hint="name this machine as the others know it",
        )


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
