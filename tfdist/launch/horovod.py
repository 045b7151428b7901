"""The verb `tfdist horovod`: builds Horovod for the TensorFlow that is here."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from tfdist.launch import horovod_build, horovod_cache, horovod_plan, horovod_proof

if TYPE_CHECKING:
    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]

NCCL_NOTE = (
    "horovod: GPU operations were asked for. tfdist passes the settings through, but "
    "has never verified the result on a GPU; the check below runs on CPUs."
)


def add_parser(verbs: Verbs) -> None:
    """Adds this verb to the command line."""
    parser = verbs.add_parser(
        "horovod", help="build Horovod for the TensorFlow that is installed"
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    action = actions.add_parser(
        "install",
        help="build, install and check it; does nothing if that is done",
        description=f"Builds Horovod {horovod_plan.HOROVOD_VERSION} from source "
        "against the installed TensorFlow, installs it beside this interpreter, and "
        "sums over two processes to prove that it works. Wheels are kept in "
        "$TFDIST_CACHE (default: ~/.cache/tfdist). Horovod's own build variables, "
        "such as HOROVOD_GPU_OPERATIONS and HOROVOD_NCCL_HOME, are passed through.",
    )
    action.add_argument(
        "--mpi",
        action=argparse.BooleanOptionalAction,
        help="insist on MPI, or leave it out; default: use it where it is found",
    )
    action.add_argument(
        "--nccl",
        action="store_true",
        help="GPU collectives through NCCL (not verified on a GPU by tfdist)",
    )
    action.add_argument(
        "--force", action="store_true", help="build again, whatever is there"
    )
    action.set_defaults(function=install)


def install(arguments: argparse.Namespace) -> int:
    """Builds, installs and proves Horovod, unless that is done; returns 0.

    Raises:
        CommandError: If a requirement is missing (nothing was started), or a
            step fails.
    """
    plan = horovod_plan.make_plan(mpi=arguments.mpi, nccl=arguments.nccl)
    title = (
        f"Horovod {horovod_plan.HOROVOD_VERSION} for {plan.tensorflow}, {plan.python}, "
        f"Gloo{f' and {plan.mpi}' if plan.mpi else ''}"
    )
    if not arguments.force and horovod_cache.installed_key() == plan.key:
        print(f"horovod: {title}: already installed in {sys.prefix}")
        return 0
    with horovod_cache.locked_shelf(plan) as shelf:
        wheel = None if arguments.force else horovod_cache.cached_wheel(shelf)
        if wheel is None:
            horovod_plan.check_toolchain()
            print(f"horovod: {title}")
            wheel = horovod_build.build_wheel(plan, shelf)
        else:
            print(f"horovod: {title}: found in {shelf}")
        log = shelf / "install.log"
        horovod_build.install_wheel(wheel, log)
        try:
            print(f"horovod: installed in {sys.prefix}", flush=True)
            if any(name.startswith("HOROVOD_GPU") for name, _ in plan.variables):
                print(NCCL_NOTE)
            for controller in plan.controllers:
                horovod_proof.prove(controller, shelf / f"proof-{controller}.log")
        except BaseException:
            # What stays installed counts as proved, here and in the next call; so
            # Ctrl-C removes it, too.
            horovod_build.uninstall(log)
            print("horovod: removed again; its wheel stays in the cache")
            raise
    return 0
