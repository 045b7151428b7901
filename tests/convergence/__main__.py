"""Train every method of an experiment on the digits, and compare it with the first.

All of it, into its page in docs/; or a part:

    python -m tests.convergence compression --write
    python -m tests.convergence compression --methods topk,topk-without --seeds 2

With `--out` an interrupted run goes on where it stopped.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.convergence.evaluate import accuracies
from tests.convergence.experiment import SEEDS
from tests.convergence.methods import EXPERIMENTS
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
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("--methods", help="by default all")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--strategy", choices=WITH_TWO_REPLICAS, default="mirrored")
    parser.add_argument("--seconds", type=float, default=7200.0, help="at most")
    parser.add_argument("--out", type=Path, help="keep results and logs here")
    parser.add_argument("--write", action="store_true", help="into its page in docs/")
    options = parser.parse_args()
    experiment = EXPERIMENTS[options.experiment]
    chosen = options.methods.split(",") if options.methods else experiment.methods
    methods = list(dict.fromkeys([experiment.reference, *chosen]))
    unknown = [name for name in methods if name not in experiment.methods]
    if unknown:
        known = ", ".join(experiment.methods)
        parser.error(f"unknown methods {unknown}; known: {known}")
    if options.seeds < 2:
        parser.error(f"--seeds {options.seeds}: an interval needs two or more")
    out = options.out or Path(tempfile.mkdtemp(prefix="tfdist-convergence-"))
    records = run(
        experiment,
        experiment.trainings(methods, options.seeds),
        out,
        strategy=options.strategy,
        seconds=options.seconds,
    )
    text = markdown(experiment, records)
    print(text)
    found = accuracies(records, experiment.settings.folds)
    wrong = broken(experiment, differences(experiment, found))
    for name, interval in wrong.items():
        print(f"{name}: not as expected: {interval}")
    print(f"results and logs: {out}")
    if options.write:
        page = ROOT / "docs" / f"{experiment.page or experiment.name}.md"
        page.write_text(replace_between_marks(page.read_text(), experiment.name, text))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
