"""The options of `tfdist run` that say how often a job is started again."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tfdist.launch.arguments import parse_ranks
from tfdist.launch.errors import CommandError
from tfdist.launch.run.plan import Plan
from tfdist.launch.run.restarts import Policy


@dataclass(frozen=True)
class Restarts:
    """What the user asked for."""

    policy: Policy
    min_ranks: int | None  # that a restart needs; None: as many as the first start
    hosts_timeout: float  # seconds that a restart waits for hosts

    def check(self, plan: Plan) -> None:
        """Refuses more ranks for a restart than the first start has.

        Raises:
            CommandError: There are more.
        """
        if (self.min_ranks or 0) > plan.replicas:
            raise CommandError(
                f"--min-np {self.min_ranks} is more than the {plan.replicas} replicas "
                "of the first start.",
                hint=f"--min-np {plan.replicas}, or a larger -np",
            )

    def describe(self, plan: Plan) -> Iterator[str]:
        """Yields the lines that `--dry-run` shows."""
        policy = self.policy
        if not policy.is_on:
            return
        least = self.min_ranks or plan.replicas
        yield (
            f"restarts: {policy.restarts} after failures, "
            f"{_any(policy.preemptions)} after preemptions; at least {least} of "
            f"{plan.replicas} replicas"
        )
        yield (
            f"before a restart: {policy.wait:g} s, doubled up to "
            f"{policy.longest_wait:g} s while no step is gained; "
            f"{self.hosts_timeout:g} s for hosts to answer"
        )
        if policy.repeats:
            yield f"end: after {policy.repeats} failures in a row at one step"


def add_options(
    parser: argparse.ArgumentParser, seconds: Callable[[str], float]
) -> None:
    """Adds the options.

    Args:
        parser: Of the verb.
        seconds: Reads a number of seconds.
    """
    group = parser.add_argument_group("restarts")
    group.add_argument(
        "--max-restarts",
        type=_count,
        default=0,
        metavar="R",
        help="starts after failures, in all; default: 0",
    )
    group.add_argument(
        "--max-preemptions",
        type=_count,
        metavar="P",
        help="starts after ranks were told to leave, in all; 0: pass it on; default: "
        "any number with --max-restarts, else 0",
    )
    group.add_argument(
        "--min-np",
        metavar="M",
        help="replicas that a restart needs if hosts do not answer; default: all",
    )
    group.add_argument(
        "--max-repeats",
        type=_count,
        default=Policy.repeats,
        metavar="N",
        help="failures in a row at one step that end the job; 0: any; default: 3",
    )
    group.add_argument(
        "--backoff",
        type=seconds,
        default=Policy.wait,
        metavar="S",
        help="seconds before a restart, doubled while no step is gained; default: 1",
    )
    group.add_argument(
        "--max-backoff",
        type=seconds,
        default=Policy.longest_wait,
        metavar="S",
        help="the longest of these; default: 60",
    )
    group.add_argument(
        "--hosts-timeout",
        type=seconds,
        default=600.0,
        metavar="S",
        help="seconds that a restart waits for hosts to answer; default: 600",
    )


def read(arguments: argparse.Namespace) -> Restarts:
    """Returns what the options say.

    Raises:
        CommandError: They contradict each other.
    """
    preemptions: float = 0 if arguments.max_restarts == 0 else math.inf
    if arguments.max_preemptions is not None:
        preemptions = arguments.max_preemptions
    policy = Policy(
        restarts=arguments.max_restarts,
        preemptions=preemptions,
        repeats=arguments.max_repeats,
        wait=arguments.backoff,
        longest_wait=arguments.max_backoff,
    )
    least = arguments.min_np
    if least is not None and not policy.is_on:
        raise CommandError(
            f"--min-np {least} is for restarts, and there are none.",
            hint="--max-restarts 3, or leave --min-np out",
        )
    ranks = None if least is None else parse_ranks(least, "--min-np")
    return Restarts(policy, ranks, arguments.hosts_timeout)


def _any(number: float) -> str:
    return "any number" if math.isinf(number) else f"{number:g}"


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 on")
    return int(text)
