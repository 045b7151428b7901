"""The arguments of `python -m benchmarks.network`, and what is done with them."""

from __future__ import annotations

import argparse
import importlib.util
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from benchmarks.network import measure, models, plot, report, torch_environment
from benchmarks.network.links import UNLIMITED, Rate
from benchmarks.network.measure import Plan
from benchmarks.network.methods import METHODS
from tests.hosts import bed
from tests.hosts.jobs import HAS_HOROVOD
from tfdist.launch.errors import FAILED, CommandError
from tfdist.launch.estimate.units import parse_bandwidth, parse_list
from tfdist.launch.parser import Parser, nearest

RATES = "100Mbit,1Gbit,10Gbit,unlimited"
DESCRIPTION = """\
Trains models on test hosts in network namespaces, over links of several rates, by
tfdist and by its peers, and writes DIR/report.md, report.png and results.json.
"""


def main(words: Sequence[str] | None = None) -> int:
    """Measures and writes the report.

    Args:
        words: The arguments; those of this process when not given.

    Returns:
        The exit code: 0 when everything was measured, 1 when something failed,
        2 when nothing was started.
    """
    arguments = build_parser().parse_args(words)
    # As an exception, SIGTERM lets the hosts be removed.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        return _run(arguments)
    except CommandError as error:
        print(f"benchmarks.network: {error}", file=sys.stderr)
        return error.exit_code


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = Parser(prog="python -m benchmarks.network", description=DESCRIPTION)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one model, two rates, fewer methods: about 5 minutes on 2 cores",
    )
    parser.add_argument(
        "--rates",
        metavar="RATE,...",
        help=f"of the links (default: {RATES}; --quick: 1Gbit,{UNLIMITED})",
    )
    parser.add_argument(
        "--models",
        metavar="NAME,...",
        help=f"of {', '.join(models.NAMES)} (default: all; --quick: mlp)",
    )
    parser.add_argument(
        "--methods", metavar="NAME,...", help=f"of {', '.join(METHODS)} (default: all)"
    )
    parser.add_argument(
        "--hosts",
        default="2",
        metavar="N",
        help="2; or 3 or 4, for the bytes only: they share the cores",
    )
    parser.add_argument(
        "--with-torch",
        action="store_true",
        help="first install PyTorch in an environment of its own",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/network"),
        metavar="DIR",
        help="where to write (default: %(default)s)",
    )
    return parser


def read_plan(arguments: argparse.Namespace) -> Plan:
    """Returns the arguments' meaning.

    Raises:
        CommandError: If one of them cannot be read.
    """
    quick = arguments.quick
    rates = arguments.rates or (f"1Gbit,{UNLIMITED}" if quick else RATES)
    names = arguments.models or ("mlp" if quick else ",".join(models.NAMES))
    usual = [method.name for method in METHODS.values() if method.quick or not quick]
    if arguments.hosts not in ("2", "3", "4"):
        raise CommandError(
            f"--hosts: expected 2, 3 or 4, received {arguments.hosts!r}.",
            hint="--hosts 2",
        )
    return Plan(
        rates=_unique(parse_list(rates, "--rates", _rate), "--rates"),
        models=_unique(
            parse_list(names, "--models", _one_of(models.NAMES)), "--models"
        ),
        methods=[
            METHODS[name]
            for name in _unique(
                parse_list(
                    arguments.methods or ",".join(usual), "--methods", _one_of(METHODS)
                ),
                "--methods",
            )
        ],
        hosts=int(arguments.hosts),
        seconds=2.0 if quick else 8.0,
        least=5,
        most=20 if quick else 40,
    )


def _run(arguments: argparse.Namespace) -> int:
    plan = read_plan(arguments)
    _check_machine()
    if arguments.with_torch:
        torch_environment.make()
    arguments.out.mkdir(parents=True, exist_ok=True)
    results = measure.run(plan)
    results.save(arguments.out / "results.json")
    text = report.report(results)
    (arguments.out / "report.md").write_text(text)
    plot.draw(results, arguments.out / report.PICTURE)
    print(f"\n{text}\nwritten: {arguments.out}")
    return FAILED if any(not each.optional for each in results.failures) else 0


def _check_machine() -> None:
    """Refuses before anything is measured what could not end well.

    Raises:
        CommandError: If hosts cannot be built here, or a program is missing.
    """
    reason = bed.missing()
    if reason is not None:
        root = "sudo" if "root" in reason else "install what is missing, then"
        raise CommandError(
            f"no test hosts: {reason}.", hint=f"{root} python -m benchmarks.network"
        )
    if not HAS_HOROVOD:
        raise CommandError("Horovod is not installed.", hint="tfdist horovod install")
    if importlib.util.find_spec("matplotlib") is None:
        raise CommandError(
            "the picture needs matplotlib, which is not installed.",
            hint=f"{sys.executable} -m pip install 'tfdist[plot]'",
        )


def _rate(text: str, option: str) -> Rate:
    if text != UNLIMITED:
        parse_bandwidth(text, option)
    return Rate(text)


def _one_of(known: Iterable[str]) -> Callable[[str, str], str]:
    """Returns what reads a known name."""
    names = list(known)

    def read(text: str, option: str) -> str:
        if text not in names:
            meant = nearest(text, names) or names[0]
            raise CommandError(
                f"{option}: unknown {text!r}; known: {', '.join(names)}.",
                hint=f"{option} {meant}",
            )
        return text

    return read


def _unique(parts: list, option: str) -> list:
    twice = next((part for part in parts if parts.count(part) > 1), None)
    if twice is not None:
        name = getattr(twice, "name", twice)
        raise CommandError(f"{option}: {name!r} is there twice.", hint="name each once")
    return parts
