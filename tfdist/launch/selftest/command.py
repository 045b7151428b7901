"""The arguments of `tfdist selftest`, and the order of what it does."""

from __future__ import annotations

import argparse
import importlib.util
from typing import TYPE_CHECKING

from tfdist.launch.arguments import parse_ranks
from tfdist.launch.errors import FAILED, CommandError
from tfdist.launch.horovod_plan import TENSORFLOW_HINT
from tfdist.launch.selftest.registry import CHECKS
from tfdist.launch.selftest.ways import Way, find_ways

if TYPE_CHECKING:
    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]

STRATEGIES = ("all", "mirrored", "multiworker", "horovod")


def add_parser(verbs: Verbs) -> None:
    """Adds this verb to the command line."""
    lines = "; ".join(f"{check.name}: {check.what}" for check in CHECKS)
    parser = verbs.add_parser(
        "selftest",
        help="prove on this machine that several ranks train like one process",
        description="Trains a tiny model on made-up data under every strategy that can "
        f"run here, on the CPUs of this machine, and checks: {lines}. Needs no data, "
        "and less than a minute on two idle cores. Exit code 0: all passed; 1: a check "
        "failed.",
    )
    parser.add_argument("-np", default="2", help="ranks (default: %(default)s)")
    parser.add_argument(
        "--strategy", default="all", help=f"{', '.join(STRATEGIES)} (default: all)"
    )
    parser.set_defaults(function=selftest)


def selftest(arguments: argparse.Namespace) -> int:
    """Runs the checks, prints a line for each, and returns the exit code.

    Raises:
        CommandError: If an argument is wrong, or nothing can run here.
    """
    np = parse_ranks(arguments.np, "-np")
    ways = choose(arguments.strategy, np)
    # Here, as it needs NumPy, which would double the time of `tfdist --help`.
    from tfdist.launch.selftest.runner import run_all

    return FAILED if run_all(ways, np) else 0


def choose(strategy: str, np: int) -> tuple[Way, ...]:
    """Returns the ways to try, those that cannot run here with the reason.

    Raises:
        CommandError: If there is no such strategy, or it cannot run here.
    """
    if strategy not in STRATEGIES:
        raise CommandError(
            f"--strategy: unknown {strategy!r}; known: {', '.join(STRATEGIES)}.",
            hint="--strategy all",
        )
    if np < 2:
        raise CommandError(f"-np {np}: one rank has no others.", hint="-np 2")
    if importlib.util.find_spec("tensorflow") is None:
        raise CommandError("TensorFlow is not installed.", hint=TENSORFLOW_HINT)
    ways = tuple(way for way in find_ways(np) if strategy in ("all", way.strategy))
    if all(way.missing for way in ways):
        raise CommandError(f"{ways[0].missing}.", hint="tfdist horovod install")
    return ways
