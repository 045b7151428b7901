"""The command `tfdist`: reads the arguments and hands over to one verb."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from tfdist.launch import checkpoint, doctor, estimate, horovod, plot, run, selftest
from tfdist.launch.errors import CommandError
from tfdist.launch.parser import Parser

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
    parsed = build_parser().parse_args(arguments)
    # As an exception, SIGTERM lets a verb end the processes that it started.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        exit_code: int = parsed.function(parsed)
    except CommandError as error:
        print(f"tfdist: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130  # what a shell reports for a command that Ctrl-C ended
    return exit_code


def _version() -> str:
    try:
        return version("tfdist")
    except PackageNotFoundError:  # `python -m tfdist.launch` in a bare checkout
        return "(not installed)"
