"""What Python's stacks tell about a rank that makes no steps. Pure."""

from __future__ import annotations

import re

_FRAME = re.compile(r'^  File "(?P<file>[^"]*)", line \d+ in (?P<function>.*)$')
_THREAD = re.compile(r"^(Current thread|Thread) 0x")
_WAITS_IN = "/tfdist/coordination/ledger.py"  # for an agreement
_EXECUTES = ("/tensorflow/python/eager/execute.py", "quick_execute")
_HOROVOD = "/horovod/tensorflow/"


def is_waiting(text: str) -> bool:
    """Returns whether a rank's main thread waits for the other ranks.

    That is, in a call into TensorFlow or Horovod, where it then sits in a collective,
    or for an agreement. Of ranks that stand still, those that do not wait are the
    ones that the others wait for.

    Args:
        text: What `faulthandler` wrote.
    """
    frames = main_thread(text)
    if not frames:
        return False
    file, function = frames[0]
    caller = frames[1][0] if len(frames) > 1 else ""
    return (
        (file.endswith(_EXECUTES[0]) and function == _EXECUTES[1])
        or (file == "<string>" and _HOROVOD in caller)
        or any(_WAITS_IN in name for name, _ in frames)
    )


def innermost(text: str, lines: int = 20) -> str:
    """Returns the first lines of the main thread's stack, the last in a log."""
    written = text.splitlines()
    starts = [n for n, line in enumerate(written) if _THREAD.match(line)]
    return "\n".join(written[starts[-1] :][:lines]) if starts else ""


def main_thread(text: str) -> list[tuple[str, str]]:
    """Returns (file, function) of the main thread's frames, the innermost first.

    Args:
        text: What `faulthandler` wrote; Python lists the newest thread first, so the
            main thread is the last. The "Current thread", if there is one, is only
            the one that the kernel chose to receive the signal.
    """
    frames: list[tuple[str, str]] = []
    for line in text.splitlines():
        if _THREAD.match(line):
            frames = []
        elif match := _FRAME.match(line):
            frames.append((match["file"], match["function"]))
    return frames
