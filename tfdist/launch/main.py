"""The command `tfdist`: reads the arguments and hands over to one verb."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from tfdist.launch import checkpoint, doctor, estimate, horovod, plot, run, selftest
from tfdist.launch.errors import CommandError
from tfdist.launch.parser import Parser
from tfdist.launch.processes import heeded

# Each verb's module has `add_parser(verbs)`, which sets `function`, a callable
# from the parsed arguments to the exit code. None may import TensorFlow at its
# top, or `tfdist --help` would take seconds.
VERBS = (run, checkpoint, doctor, selftest, estimate, plot, horovod)


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the whole command line."""
    parser = Parser(
        prog="tfdist",
        description="Distributed training of Keras models; one verb per task.",
    )
    parser.add_argument("--version", action="version", version=f"tfdist {_version()}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for verb in VERBS:
        verb.add_parser(verbs)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb.

    Args:
        arguments: The words after the program's name; those of this process
            when not given.

    Returns:
        The exit code: 0 when done, 1 when something that was started failed,
        2 when nothing was started because an argument or a requirement is
        wrong; a verb's help names others.

    Example:
        >>> main(["horovod", "install", "--no-mpi"])  # doctest: +SKIP
        0
    """
    _open_missing_streams()
    try:
        try:
            return _run_verb(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # nobody reads any more, as in `tfdist ... | head`
        # Python writes the rest when it ends, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def _run_verb(arguments: Sequence[str] | None) -> int:
    parsed = build_parser().parse_args(arguments)
    # As exceptions, these let a verb end the processes that it started.
    for ending in heeded(signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, lambda number, _: sys.exit(128 + number))
    try:
        exit_code: int = parsed.function(parsed)
    except CommandError as error:
        print(f"tfdist: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130  # what a shell reports for a command that Ctrl-C ended
    return exit_code


def _open_missing_streams() -> None:
    """Gives a command without output (`tfdist ... >&-`) one that goes nowhere."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))


def _version() -> str:
    try:
        return version("tfdist")
    except PackageNotFoundError:  # `python -m tfdist.launch` in a bare checkout
        return "(not installed)"
