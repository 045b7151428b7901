"""What the wrapper around a rank has to know, in a file that only its owner reads.

Not in arguments and not in variables: horovodrun writes both into command lines,
which every user of a machine can list, and the ticket holds the job's secret.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

VARIABLE = "TFDIST_TICKET"  # the path of the ticket


@dataclass(frozen=True)
class Ticket:
    """The same for all ranks of a job."""

    size: int  # ranks
    addresses: tuple[str, ...]  # where the launcher listens, best first
    port: int
    token: str  # the job's secret, in hexadecimal
    script: tuple[str, ...]  # see plan.Request
    environment: Mapping[str, str]  # added for all ranks
    environments: tuple[Mapping[str, str], ...]  # added for each rank
    removed: tuple[str, ...]  # variables that the ranks do not get
    grace: float  # seconds between SIGTERM and SIGKILL
    terminals: tuple[bool, bool]  # whether rank 0's stdout and stderr are one
    window: tuple[int, int]  # its columns and lines
    folder: str  # in which the script runs

    def encoded(self) -> str:
        """Returns the ticket as one line of JSON."""
        return json.dumps(asdict(self))


def decode(text: str) -> Ticket:
    """Returns the ticket that `Ticket.encoded` wrote."""
    content = json.loads(text)
    for name in ("addresses", "script", "environments", "removed"):
        content[name] = tuple(content[name])
    for name in ("terminals", "window"):
        first, second = content[name]
        content[name] = (first, second)
    return Ticket(**content)


def store(text: str, path: Path) -> None:
    """Writes a ticket into a folder of its own.

    Raises:
        OSError: The folder is there with another content, or cannot be made.
    """
    try:
        path.parent.mkdir(mode=0o700)
    except FileExistsError:
        # Hosts may share the folder; a stranger cannot know the text.
        if path.is_file() and path.read_text() == text:
            return
        raise
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w") as file:
        file.write(text)


def remove(path: Path) -> None:
    """Removes a ticket and its folder, if they are still there."""
    shutil.rmtree(path.parent, ignore_errors=True)
