"""The arguments of `tfdist run`, and what is checked before anything starts."""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

from tfdist.coordination.launch import read_launch
from tfdist.launch.arguments import parse_hosts, parse_ranks
from tfdist.launch.errors import CommandError
from tfdist.launch.horovodrun_config import read_settings
from tfdist.launch.ports import free_ports
from tfdist.launch.run import machine as machines
from tfdist.launch.run import probe, remote
from tfdist.launch.run.describe import describe
from tfdist.launch.run.hosts import check_hosts
from tfdist.launch.run.plan import CONTROLLERS, STRATEGIES, Plan, Request, make_plan

if TYPE_CHECKING:
    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]

DESCRIPTION = """\
Starts a training script under the strategy that fits, or the one asked for; in it,
tfdist.strategy("auto") is that strategy. Rank 0 writes to this terminal, all ranks to
files. When a rank fails, all are ended (SIGTERM, then SIGKILL after the grace
period), the end of that rank's log is shown, and its exit code is this command's.
Ctrl-C reaches every rank once; a second one kills. Other exit codes: 2, nothing was
started; 75, a rank made no step for --stall-timeout seconds; 128 + N, signal N."""


def add_parser(verbs: Verbs) -> None:
    """Adds this verb to the command line."""
    parser = verbs.add_parser(
        "run",
        help="start a script on several devices, processes or hosts",
        usage="tfdist run [options] script.py args...\n"
        "       tfdist run [options] -m module args...",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-np", metavar="N", help="replicas in all")
    parser.add_argument(
        "-H", dest="hosts", metavar="host:slots,...", help="where; default: here"
    )
    parser.add_argument("--strategy", choices=STRATEGIES, default="auto")
    parser.add_argument("--controller", choices=CONTROLLERS, help="of Horovod")
    parser.add_argument(
        "--config", type=Path, metavar="FILE.yaml", help="settings for horovodrun"
    )
    parser.add_argument(
        "--log-dir", type=Path, metavar="DIR", help="default: kept if a rank fails"
    )
    parser.add_argument(
        "--grace",
        type=_seconds,
        default=30.0,
        metavar="S",
        help="seconds between SIGTERM and SIGKILL; default: 30",
    )
    parser.add_argument(
        "--stall-timeout",
        type=_seconds,
        default=300.0,
        metavar="S",
        help="seconds that a training step may take; 0: any; default: 300",
    )
    parser.add_argument(
        "--port",
        type=_port,
        metavar="P",
        help="multiworker: the first port of every host; default: free ones",
    )
    parser.add_argument("--dry-run", action="store_true", help="only print the plan")
    parser.add_argument(
        "-m", dest="module", nargs=argparse.REMAINDER, help="a module and its arguments"
    )
    parser.add_argument("script", nargs="?", help="a Python file")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="the script's own")
    parser.set_defaults(function=run)


def run(arguments: argparse.Namespace) -> int:
    """Plans, checks and starts; returns the exit code.

    Raises:
        CommandError: Something is wrong, and nothing was started.
    """
    _refuse_inside_a_launcher()
    script = _script(arguments)
    if arguments.log_dir is not None:
        _check_log_dir(arguments.log_dir)
    hosts = () if arguments.hosts is None else parse_hosts(arguments.hosts)
    check_hosts(hosts)
    request = Request(
        script=script,
        processes=None if arguments.np is None else parse_ranks(arguments.np, "-np"),
        hosts=hosts,
        strategy=arguments.strategy,
        controller=arguments.controller,
        config=arguments.config,
        settings=read_settings(arguments.config) if arguments.config else {},
        stall_timeout=arguments.stall_timeout,
    )
    machine = machines.look(os.environ)
    plan = make_plan(request, machine, os.environ, {})
    others = [h.name for h in plan.hosts if h.name not in machine.own_names]
    ports = _own_ports(plan, others, arguments.port)
    if arguments.dry_run:
        plan = make_plan(request, machine, os.environ, ports)
        print(describe(plan, os.environ))
        return 0
    from tfdist.launch.run.launcher import Options, launch

    if others:
        ports |= _check_others(plan, others, arguments.port)
    plan = make_plan(request, machine, os.environ, ports)
    options = Options(arguments.log_dir, arguments.grace, arguments.stall_timeout)
    return launch(plan, others, options)


def _script(arguments: argparse.Namespace) -> tuple[str, ...]:
    if arguments.module is not None:
        if not arguments.module:
            raise CommandError("-m names no module.", hint="tfdist run -m module args")
        return ("-m", *arguments.module)
    if arguments.script is None:
        raise CommandError(
            "There is no script to run.", hint="tfdist run -np 2 train.py"
        )
    if not Path(arguments.script).is_file():
        raise CommandError(
            f"The script {arguments.script!r} does not exist.",
            hint="give the path of a Python file, or -m and a module's name",
        )
    return (arguments.script, *arguments.arguments)


def _refuse_inside_a_launcher() -> None:
    outside = {name: os.environ[name] for name in os.environ if name != "TF_CONFIG"}
    try:
        launch = read_launch(outside)
    except ValueError as error:
        problem, _, hint = str(error).partition("\nHINT: ")
        raise CommandError(problem, hint=hint) from None
    if launch is not None and launch.size > 1:
        raise CommandError(
            f"{launch.launcher} has started this command as rank {launch.rank} of "
            f"{launch.size}, and each would start a job.",
            hint=f"leave out {launch.launcher}, or tfdist run",
        )


def _check_log_dir(folder: Path) -> None:
    nearest = next(each for each in (folder, *folder.parents) if each.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise CommandError(
            f"The log folder {folder} cannot be written.", hint="--log-dir DIR"
        )


def _own_ports(
    plan: Plan, others: list[str], first: int | None
) -> dict[str, list[int]]:
    """Returns ports for the workers of TF_CONFIG on this machine."""
    if plan.strategy != "multiworker":
        if first is not None:
            raise CommandError(
                f"--port is for multiworker, and the strategy is {plan.strategy}.",
                hint="--strategy multiworker, or leave --port out",
            )
        return {}
    here = [host.name for host in plan.hosts if host.name not in others]
    try:
        return {host: free_ports(plan.ranks_of(host), first) for host in here}
    except OSError as error:
        raise _no_port(str(error), first) from None


def _check_others(
    plan: Plan, others: list[str], first: int | None
) -> dict[str, list[int]]:
    """Asks all other hosts before the start; returns their free ports."""
    workers = plan.strategy == "multiworker"
    questions = [
        {
            "script": plan.script,
            "ports": plan.ranks_of(host) if workers else 0,
            "first": first,
        }
        for host in others
    ]
    found = dict(zip(others, remote.ask_all(others, questions), strict=True))
    controller = plan.controller if len(plan.hosts) > 1 else None
    for host in plan.hosts:
        if host.name not in found and controller:
            found[host.name] = probe.facts(list(plan.script))
    remote.check_all(found, probe.versions(), controller=controller)
    for facts in found.values():
        if "error" in facts:
            raise _no_port(facts["error"], first)
    return {host: found[host]["ports"] for host in others}


def _no_port(problem: str, first: int | None) -> CommandError:
    hint = "leave --port out, or give another" if first else "end what uses them"
    return CommandError(f"{problem[:1].upper()}{problem[1:]}.", hint=hint)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 0 < int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is no port")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return seconds
