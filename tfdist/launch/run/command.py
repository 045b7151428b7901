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
from tfdist.launch.run import machine as machines
from tfdist.launch.run import restart_options
from tfdist.launch.run.describe import describe
from tfdist.launch.run.hosts import check_hosts
from tfdist.launch.run.plan import CONTROLLERS, STRATEGIES, Request
from tfdist.launch.run.prepare import sketch

if TYPE_CHECKING:
    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]

DESCRIPTION = """\
Starts a training script under the strategy that fits, or the one asked for; in it,
tfdist.strategy("auto") is that strategy. Rank 0 writes to this terminal, all ranks to
files. When a rank fails, all are ended (SIGTERM, then SIGKILL after the grace
period), the end of that rank's log is shown, and its exit code is this command's.
Ctrl-C reaches every rank once; a second one kills. With --max-restarts, all ranks are
started again, and the script goes on from its newest checkpoint (CheckpointRecovery);
ranks that end with 143 or 138 (SIGTERM, SIGUSR1) have left because they were told to,
and do not count as failures. A signal to this command ends the job: no restart.
Other exit codes: 2, nothing was started; 69, too few hosts answered for a restart; 75,
a rank made no step for --stall-timeout seconds; 76, one step ended the job
--max-repeats times in a row; 128 + N, signal N."""


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
    restart_options.add_options(parser, _seconds)
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
    restarts = restart_options.read(arguments)
    request = Request(
        script=script,
        processes=None if arguments.np is None else parse_ranks(arguments.np, "-np"),
        hosts=hosts,
        strategy=arguments.strategy,
        controller=arguments.controller,
        config=arguments.config,
        settings=read_settings(arguments.config) if arguments.config else {},
        stall_timeout=arguments.stall_timeout,
        restarts=0 if restarts.policy.is_on else None,
    )
    machine = machines.look(os.environ)
    plan = sketch(request, machine, arguments.port)
    restarts.check(plan)
    if arguments.dry_run:
        print("\n".join([describe(plan, os.environ), *restarts.describe(plan)]))
        return 0
    from tfdist.launch.run.supervise import Options, Task, supervise

    return supervise(
        Task(
            request=request,
            machine=machine,
            first_port=arguments.port,
            log_dir=arguments.log_dir,
            options=Options(arguments.grace, arguments.stall_timeout),
            restarts=restarts,
        )
    )


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
