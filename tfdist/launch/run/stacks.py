"""What Python's stacks tell about a rank that makes no steps. Pure."""

from __future__ import annotations

import re

_FRAME = re.compile(r'^  File "(?P<file>[^"]*)", line \d+ in (?P<function>.*)$')
_WAITS_IN = "/tfdist/coordination/"  # for an agreement
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


def main_thread(text: str) -> list[tuple[str, str]]:
    """Returns (file, function) of the main thread's frames, the innermost first.

    Args:
        text: What `faulthandler` wrote; the thread that received the signal, which
            the kernel lets the main thread do, is its "Current thread".
    """
    _, found, current = text.rpartition("Current thread ")
    if not found:
        return []
    frames = []
    for line in current.splitlines()[1:]:
        match = _FRAME.match(line)
        if match is None:
            break
        frames.append((match["file"], match["function"]))
    return frames
