"""The arguments of `tfdist doctor`, and the order of what it does."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from tfdist.launch.arguments import parse_hosts
from tfdist.launch.doctor import cluster_checks, host_checks
from tfdist.launch.doctor.facts import gather
from tfdist.launch.doctor.hosts import ask
from tfdist.launch.doctor.report import show, show_json
from tfdist.launch.doctor.verdicts import FAILED, Examination, Verdict

if TYPE_CHECKING:
    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]

UNHEALTHY = 3  # 1 and 2 say that the doctor itself failed


def add_parser(verbs: Verbs) -> None:
    """Adds this verb to the command line."""
    parser = verbs.add_parser(
        "doctor",
        help="show what is installed, and check it",
        description="Prints what an issue should say about this host, and checks it: "
        "versions, Horovod's build, MPI, GPUs, threads; with -H also whether the hosts "
        "are reached over ssh and fit together. Exit code 0: healthy; 3: a check "
        "failed. Nothing is changed.",
    )
    parser.add_argument(
        "-H",
        "--hosts",
        metavar="HOST:SLOTS,...",
        help="check these hosts too, for as many ranks each",
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object, for machines"
    )
    parser.set_defaults(function=doctor)


def doctor(arguments: argparse.Namespace) -> int:
    """Gathers the facts, prints the verdicts and returns the exit code.

    Raises:
        CommandError: If -H cannot be read.
    """
    hosts = () if arguments.hosts is None else parse_hosts(arguments.hosts)
    print("doctor: importing TensorFlow to look at it", file=sys.stderr, flush=True)
    here = gather()
    examination = Examination(here, ask(hosts, here))
    verdicts = examine(examination)
    print((show_json if arguments.json else show)(examination, verdicts))
    unhealthy = any(verdict.status == FAILED for verdict in verdicts.values())
    return UNHEALTHY if unhealthy else 0


def examine(examination: Examination) -> dict[str, Verdict]:
    """Returns the verdict of every check, by the check's name."""
    of_cluster = cluster_checks.CHECKS if examination.answers else ()
    checks = (*host_checks.CHECKS, *of_cluster)
    return {check.__name__.replace("_", " "): check(examination) for check in checks}
