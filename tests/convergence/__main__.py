"""Train every method on the digits, and compare it with uncompressed training.

All of it, into docs/compression.md; or a part:

    python -m tests.convergence --write
    python -m tests.convergence --methods topk,topk-without --seeds 2

With `--out` an interrupted run goes on where it stopped.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.convergence.evaluate import accuracies
from tests.convergence.experiment import (
    METHODS,
    SEEDS,
    UNCOMPRESSED,
    Settings,
    trainings,
)
from tests.convergence.report import broken, differences, markdown
from tests.convergence.run import run
from tests.guarantees.launch import ROOT
from tests.pages import replace_between_marks

# The first is the fastest: its replicas share a process.
WITH_TWO_REPLICAS = ("mirrored", "horovod", "horovod-mpi")


def main() -> int:
    """Run, print, and return 1 if a method does not do what theory says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--strategy", choices=WITH_TWO_REPLICAS, default="mirrored")
    parser.add_argument("--seconds", type=float, default=7200.0, help="at most")
    parser.add_argument("--out", type=Path, help="keep results and logs here")
    parser.add_argument("--write", action="store_true", help="into docs/compression.md")
    options = parser.parse_args()
    methods = list(dict.fromkeys([UNCOMPRESSED, *options.methods.split(",")]))
    unknown = [name for name in methods if name not in METHODS]
    if unknown:
        parser.error(f"unknown methods {unknown}; known: {', '.join(METHODS)}")
    if options.seeds < 2:
        parser.error(f"--seeds {options.seeds}: an interval needs two or more")
    out = options.out or Path(tempfile.mkdtemp(prefix="tfdist-convergence-"))
    settings = Settings()
    records = run(
        trainings(methods, options.seeds, settings.folds),
        settings,
        out,
        strategy=options.strategy,
        seconds=options.seconds,
    )
    text = markdown(records, settings.folds)
    print(text)
    wrong = broken(differences(accuracies(records, settings.folds)))
    for name, interval in wrong.items():
        print(f"{name}: not as expected: {interval}")
    print(f"results and logs: {out}")
    if options.write:
        page = ROOT / "docs" / "compression.md"
        page.write_text(replace_between_marks(page.read_text(), "convergence", text))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
