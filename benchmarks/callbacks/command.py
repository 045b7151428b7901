"""The arguments of `python -m benchmarks.callbacks`, and what is done with them."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.callbacks.candidates import CANDIDATES
from benchmarks.callbacks.report import report
from tfdist.launch import local_jobs
from tfdist.launch.errors import FAILED
from tfdist.launch.parser import Parser
from tfdist.launch.processes import run_together, tail

DESCRIPTION = """\
Measures what callbacks add to a step of the digits' model: trains without any and with
each of them at the same time, of which one at a time makes a few steps. Prints a table.
"""


def main(words: Sequence[str] | None = None) -> int:
    """Measures and prints.

    Args:
        words: The arguments; those of this process when not given.

    Returns:
        The exit code: 0 when everything was measured.
    """
    parser = Parser(prog="python -m benchmarks.callbacks", description=DESCRIPTION)
    parser.add_argument(
        "--callbacks", nargs="+", choices=CANDIDATES, default=list(CANDIDATES)
    )
    parser.add_argument("-np", type=int, default=2, help="ranks, of Horovod over Gloo")
    parser.add_argument("--epochs", type=int, default=40, help="measured")
    parser.add_argument("--steps", type=int, default=100, help="of an epoch")
    parser.add_argument("--block", type=int, default=10, help="steps until the next")
    options = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="tfdist-callbacks-") as name:
        folder = Path(name)
        program = ["-m", "benchmarks.callbacks.program", "--out", name]
        program += ["--strategy", "horovod" if options.np > 1 else "default"]
        for option in ("epochs", "steps", "block"):
            program += [f"--{option}", str(getattr(options, option))]
        cores = max(1, len(os.sched_getaffinity(0)) // options.np)
        program += ["--cores", str(cores), "--callbacks", *options.callbacks]
        if options.np > 1:
            jobs = local_jobs.horovodrun(
                program, folder, controller="gloo", np=options.np
            )
        else:
            jobs = local_jobs.single(program, folder)
        (code,) = run_together(jobs, timeout=3600)
        if code:
            print(tail(jobs[0].log), file=sys.stderr)
            return FAILED
        print(report(json.loads((folder / "results.json").read_text())))
    print(
        f"\n{options.np} ranks, {options.epochs} epochs of {options.steps} steps each, "
        f"{options.block} at a time. Left behind: in a step without the callback."
    )
    return 0
