"""How ssh is called: without questions, and with this checkout on the other side."""

from __future__ import annotations

import os
import shlex
import sys

SSH_FAILED = 255  # the exit code of ssh itself
# For what only asks: a job's connection is to survive a pause of the network.
NOTICE_SILENCE = ("-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3")

# BatchMode: a question for a password, or for an unknown host's key, would wait for
# ever where nobody sees it.
_SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10")


def ssh_command(host: str, line: str, *options: str) -> list[str]:
    """Returns the command that runs a line in the login shell of another host.

    Args:
        host: Its name or address, or what ssh's configuration calls it.
        line: For the shell there.
        *options: Of ssh, further ones.
    """
    return [*_SSH, *options, "--", host, line]


def python_line(*words: str) -> str:
    """Returns the line that starts this interpreter in the shell of another host.

    As with horovodrun, a checkout on PYTHONPATH is found there, too.
    """
    path = os.environ.get("PYTHONPATH")
    prefix = ["env", f"PYTHONPATH={path}"] if path else []
    return shlex.join([*prefix, sys.executable, *words])
