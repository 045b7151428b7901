"""Runs the user's script inside a rank, as `python script.py` would.

It adds what cannot be done from outside: Python's stacks on request, the steps that
were made, and the moment at which the script failed (its exit may come later than
that of a rank that only lost its peers). The script needs no change, and sees its
own name, arguments and path.
"""

from __future__ import annotations

import builtins
import ctypes
import faulthandler
import io
import os
import runpy
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, TracebackType

from tfdist.coordination import progress

# A real-time signal: SIGUSR1 and SIGUSR2 belong to schedulers and to the script.
STACKS_SIGNAL = signal.SIGRTMAX - 1

_PR_SET_PDEATHSIG = 1


def main(arguments: Sequence[str]) -> None:
    """Prepares the process and runs the script; its end is the process's.

    Args:
        arguments: The wrapper's process id, the descriptors for events, for stacks
            and of the progress, then the script and its words.
    """
    own = os.getpid()
    parent, events, stacks, record, *script = arguments
    _die_with(int(parent))
    for descriptor in (int(events), int(stacks)):
        os.set_inheritable(descriptor, False)  # the script's children keep none open
    faulthandler.register(STACKS_SIGNAL, file=int(stacks), all_threads=True)
    progress.install(int(record))
    os.close(int(record))  # it is mapped
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Through a pipe, what a killed rank has printed last would be lost.
            stream.reconfigure(line_buffering=True)
    sys.excepthook = _own_frames_left_out
    try:
        _run(script)
    except BaseException as error:
        if os.getpid() == own:  # not in a child of os.fork(), which comes here, too
            _report(int(events), _exit_code(error))
        raise


def _run(script: Sequence[str]) -> None:
    if script[0] == "-m":
        sys.argv = list(script[1:])
        sys.path[0] = os.getcwd()
        runpy.run_module(script[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(script)
        sys.path[0] = str(Path(script[0]).resolve().parent)
        path = os.path.abspath(script[0])
        # Not runpy.run_path: it changes sys.argv[0], and drops the module at the end.
        module = sys.modules["__main__"] = ModuleType("__main__")
        module.__dict__.update(__file__=path, __builtins__=builtins)
        with io.open_code(path) as file:
            # Not with this module's own `from __future__ import annotations`.
            code = compile(file.read(), path, "exec", dont_inherit=True)
        exec(code, module.__dict__)


def _report(events: int, code: int) -> None:
    if code:
        os.write(events, f"failed {code}\n".encode())


def _exit_code(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        return 130
    if isinstance(error, SystemExit) and isinstance(error.code, int | None):
        return (error.code or 0) & 0xFF
    return 1  # Python prints the error, or the text of a SystemExit, and exits so


def _own_frames_left_out(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Shows an exception as it would look without this module."""
    ours = (__file__, runpy.__file__, "<frozen runpy>")
    first = trace
    while first is not None and first.tb_frame.f_code.co_filename in ours:
        first = first.tb_next
    # Where no frame is left, the script could not even be compiled.
    sys.__excepthook__(kind, error.with_traceback(first), first)


def _die_with(parent: int) -> None:
    """Makes the kernel end this process when the wrapper is killed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was already
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1:])
