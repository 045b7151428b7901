"""The arguments of `python -m benchmarks.recovery`, and what is done with them."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.recovery.report import recovery_table, saving_table
from benchmarks.recovery.restart import recoveries
from benchmarks.recovery.savers import SAVERS
from tfdist.launch import local_jobs
from tfdist.launch.errors import FAILED
from tfdist.launch.parser import Parser
from tfdist.launch.processes import run_together, tail

DESCRIPTION = """\
Measures what saving adds to training, beside what Keras and TensorFlow offer, in turns
in one process; then kills a rank of a job of several and measures the way back.
"""


def main(words: Sequence[str] | None = None) -> int:
    """Measures and prints.

    Args:
        words: The arguments; those of this process when not given.

    Returns:
        The exit code: 0 when everything was measured.
    """
    parser = Parser(prog="python -m benchmarks.recovery", description=DESCRIPTION)
    parser.add_argument(
        "--millions",
        nargs="*",
        type=float,
        default=[12.6, 100.0],
        help="parameters of the models",
    )
    parser.add_argument("--savers", nargs="+", choices=SAVERS, default=list(SAVERS))
    parser.add_argument(
        "--every", type=int, default=40, help="steps between saves, an even number"
    )
    parser.add_argument("--saves", type=int, default=15, help="of a turn")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--step-ms", type=float, default=100.0)
    parser.add_argument("--kills", type=int, default=3, help="0: no recovery")
    parser.add_argument("-np", type=int, default=2, help="ranks that recover")
    options = parser.parse_args(words)
    for millions in options.millions:
        with tempfile.TemporaryDirectory(prefix="tfdist-recovery-") as name:
            folder = Path(name)
            program = ["-m", "benchmarks.recovery.program", "--out", name]
            program += ["--parameters", str(round(millions * 1e6))]
            program += ["--step-seconds", str(options.step_ms / 1000)]
            for option in ("every", "saves", "rounds"):
                program += [f"--{option}", str(getattr(options, option))]
            jobs = local_jobs.single([*program, "--savers", *options.savers], folder)
            (code,) = run_together(jobs, timeout=3600)
            if code:
                print(tail(jobs[0].log), file=sys.stderr)
                return FAILED
            found = json.loads((folder / "results.json").read_text())
            print(saving_table(found), end="\n\n", flush=True)
    if options.kills:
        with tempfile.TemporaryDirectory(prefix="tfdist-recovery-") as name:
            parts = recoveries(
                Path(name), kills=options.kills, ranks=options.np, parameters=12_600_000
            )
            print(
                f"Rank {options.np - 1} of {options.np} killed {options.kills} times:\n"
            )
            print(recovery_table(parts))
    return 0
