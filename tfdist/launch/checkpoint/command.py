"""The arguments of `tfdist checkpoint`, and its three actions.

What reads checkpoints needs NumPy, and is imported when an action begins.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from tfdist.launch.errors import FAILED, CommandError

if TYPE_CHECKING:
    from tfdist.checkpoint.directory import Checkpoint, Directory

    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]

WHERE = "a folder, or an address such as gs://bucket/run"


def add_parser(verbs: Verbs) -> None:
    """Adds this verb to the command line."""
    parser = verbs.add_parser(
        "checkpoint", help="list, verify and compare the checkpoints of a run"
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    action = actions.add_parser(
        "ls",
        help="list the steps",
        description="Lists the steps of a run with epoch, time, size and ranks, and "
        "whether all files are there. Only manifests are read.",
    )
    action.add_argument("directory", metavar="DIR", help=WHERE)
    action.set_defaults(function=list_steps)
    action = actions.add_parser(
        "verify",
        help="read every byte and compare it with what was saved",
        description="Reads every file of every step and compares its SHA-256 with the "
        "manifest's. Exit code 0: all steps are good; 1: one is damaged.",
    )
    action.add_argument("directory", metavar="DIR", help=WHERE)
    action.add_argument("--step", metavar="N", help="only this step")
    action.set_defaults(function=verify)
    action = actions.add_parser(
        "diff",
        help="show which tensors differ, and by how much",
        description="Compares two steps of a run (by default the newest two), or one "
        "step of two directories (by default the newest that both have). Exit code 0: "
        "all tensors are equal bit for bit; 1: some differ.",
    )
    action.add_argument("directory", metavar="DIR", help=WHERE)
    action.add_argument("other", metavar="OTHER", nargs="?", help="another one")
    action.add_argument(
        "--steps", metavar="N[,N]", help="two steps of DIR, or one of both directories"
    )
    action.set_defaults(function=diff)


def list_steps(arguments: argparse.Namespace) -> int:
    """Prints the table of steps; returns 0.

    Raises:
        CommandError: If the directory cannot be read.
    """
    from tfdist.launch.checkpoint.listing import listing

    print(listing(_directory(arguments.directory)))
    return 0


def verify(arguments: argparse.Namespace) -> int:
    """Prints the verdict on each step; returns 1 if one is damaged.

    Raises:
        CommandError: If the directory cannot be read or has no such step.
    """
    directory = _directory(arguments.directory)
    steps = directory.steps()
    if arguments.step is not None:
        steps = (_existing(directory, _number(arguments.step, "--step")),)
    if not steps:
        raise CommandError(
            f"{directory.path} has no checkpoint.", hint=_ls(arguments.directory)
        )
    damaged = 0
    for step in steps:
        reason = directory.verify(step)
        damaged += reason is not None
        print(f"step {step}: {'ok' if reason is None else f'DAMAGED: {reason}'}")
    return FAILED if damaged else 0


def diff(arguments: argparse.Namespace) -> int:
    """Prints which tensors differ; returns 1 if some do.

    Raises:
        CommandError: If an argument is wrong, or a step is missing or damaged.
    """
    from tfdist.launch.checkpoint.difference import compare

    first = _directory(arguments.directory)
    steps = () if arguments.steps is None else arguments.steps.split(",")
    numbers = [_number(each, "--steps") for each in steps]
    if arguments.other is None:
        second = first
        numbers = numbers or list(first.steps()[1::-1])
        if len(numbers) != 2:
            raise CommandError(
                "diff needs two steps of one directory.",
                hint="--steps 100,200, or a second directory",
            )
    else:
        second = _directory(arguments.other)
        numbers = numbers or sorted({*first.steps()} & {*second.steps()})[-1:]
        if len(numbers) != 1:
            raise CommandError(
                "diff needs one step that both directories have.",
                hint=f"--steps 100; {_ls(arguments.directory)} shows what there is",
            )
        numbers *= 2
    pair = zip((first, second), numbers, strict=True)
    text, is_equal = compare(*(_loaded(where, step) for where, step in pair))
    print(text)
    return 0 if is_equal else FAILED


def _directory(place: str) -> Directory:
    from tfdist.checkpoint.directory import Directory
    from tfdist.checkpoint.places import locate

    try:
        directory = Directory(*locate(place))
        entries = directory.files.names(directory.path)
    except (ValueError, OSError) as error:
        problem, _, hint = str(error).partition("\nHINT: ")
        raise CommandError(problem, hint=hint or f"look at {place}") from error
    if not entries:
        raise CommandError(
            f"{place} is no folder, or an empty one.",
            hint="name the directory that CheckpointRecovery was given",
        )
    return directory


def _number(text: str, option: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise CommandError(
            f"{option}: expected a step, received {text!r}.", hint=f"{option} 100"
        )
    return int(text)


def _existing(directory: Directory, step: int) -> int:
    if step not in directory.steps():
        raise CommandError(
            f"{directory.path} has no step {step}.", hint=_ls(directory.path)
        )
    return step


def _loaded(directory: Directory, step: int) -> Checkpoint:
    from tfdist.checkpoint.errors import CheckpointError

    try:
        return directory.load(_existing(directory, step))
    except (CheckpointError, OSError) as error:
        raise CommandError(
            f"Step {step} cannot be compared: {str(error).splitlines()[0]}.",
            hint=f"tfdist checkpoint verify {directory.path}",
            exit_code=FAILED,
        ) from error


def _ls(place: str) -> str:
    return f"tfdist checkpoint ls {place}"
