"""Ends what a test started."""

import os
import signal
import subprocess


def end(process: subprocess.Popen) -> None:
    """End the process group, politely first: horovodrun then ends its children."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(timeout=5)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
