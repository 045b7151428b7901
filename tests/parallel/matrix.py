"""Print the feature matrix, measured now: features x strategies.

All rows and modes, with `--write` into the README; or a few of them:

    python -m tests.parallel.matrix
    python -m tests.parallel.matrix --modes horovod-gloo --rows 'accum*'
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.pages import line, replace_between_marks
from tests.parallel.compare import Verdict, judge, read_outcomes
from tests.parallel.launch import ROOT, launch_all
from tests.parallel.modes import MODES, REFERENCE
from tests.parallel.registry import Row, load_rows

Table = dict[str, dict[str, Verdict]]  # row, mode -> verdict

LEGEND = """\
`=`: equal. `differs`: by this largest relative difference (or another assertion of
the row fails). `ranks differ`: ranks or replicas end with different weights. `error`,
`crashed`, `hangs`: no result. `refused`: a clear error says why. `–`: the row uses what
this column does not have.
"""


def measure(modes: Sequence[str], rows: Mapping[str, Row], out: Path) -> Table:
    """Run the rows under the reference and the modes, and compare."""
    names = list(dict.fromkeys([REFERENCE, *modes]))
    rows_of = {
        mode: [name for name, row in rows.items() if MODES[mode].can_run(row)]
        for mode in names
    }
    for mode, seconds in launch_all(rows_of, out).items():
        print(f"{mode}: {len(rows_of[mode])} rows in {seconds:.0f} s", file=sys.stderr)
    return {
        name: {mode: verdict(mode, row, out) for mode in names}
        for name, row in rows.items()
    }


def verdict(mode: str, row: Row, out: Path) -> Verdict:
    """Compare one cell's ranks with one another and with the reference."""
    if not MODES[mode].can_run(row):
        return Verdict("none")
    reference = read_outcomes(MODES[REFERENCE], row.name, out / REFERENCE)[0]
    return judge(row, read_outcomes(MODES[mode], row.name, out / mode), reference)


def cell(found: Verdict) -> str:
    """Return the text of one cell."""
    if found.kind in ("equal", "none"):
        return {"equal": "=", "none": "–"}[found.kind]
    if math.isfinite(found.difference) and found.difference > 0.0:
        return f"{found.kind} {found.difference:.0e}"
    return found.kind


def count(column: Sequence[Verdict]) -> str:
    """Return how many of the measured cells are right."""
    measured = [found for found in column if found.kind != "none"]
    return f"{sum(found.allowed for found in measured)} of {len(measured)}"


def brief(detail: str, width: int = 300) -> str:
    """Return the detail on one line; the logs hold all of it."""
    return " ".join(detail.split())[:width]


def markdown(table: Table, rows: Mapping[str, Row], modes: Sequence[str]) -> str:
    """Return how many rows are right, and all rows below a heading for each group."""
    titles = [MODES[mode].title for mode in modes]
    counts = [count([verdicts[mode] for verdicts in table.values()]) for mode in modes]
    lines = ["| | rows right |", "|---|---|"]
    lines += [f"| {title} | {n} |" for title, n in zip(titles, counts, strict=True)]
    lines += ["", "<details><summary>All rows</summary>", "", LEGEND]
    lines += [line(["feature", *titles]), "|---" * (len(modes) + 1) + "|"]
    group = None
    for name, verdicts in table.items():
        if rows[name].group != group:
            group = rows[name].group
            lines.append(line([f"**{group}**", *("" for _ in modes)]))
        cells = [cell(verdicts[mode]) for mode in modes]
        lines.append(line([rows[name].title, *cells]))
    return "\n".join([*lines, "", "</details>", ""])


def main() -> int:
    """Run, print, and return 1 if a mode of tfdist has a cell that is not allowed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    everything = [name for name in MODES if name != REFERENCE]
    parser.add_argument("--modes", default=",".join(everything))
    parser.add_argument("--rows", nargs="+", default=["*"], metavar="PATTERN")
    parser.add_argument("--out", type=Path, help="keep results and logs here")
    parser.add_argument("--write", action="store_true", help="into the README")
    options = parser.parse_args()
    modes = options.modes.split(",")
    unknown = [mode for mode in modes if mode not in MODES]
    if unknown:
        parser.error(f"unknown modes {unknown}; known: {', '.join(MODES)}")
    rows = load_rows(options.rows)
    out = options.out or Path(tempfile.mkdtemp(prefix="tfdist-matrix-"))
    table = measure(modes, rows, out)
    text = markdown(table, rows, modes)
    print(text)
    wrong = 0
    for name, verdicts in table.items():
        for mode, found in verdicts.items():
            if not found.allowed:
                wrong += not MODES[mode].peer
                print(f"{mode} {name}: {found.kind}: {brief(found.detail)}")
    print(f"results and logs: {out}")
    if options.write:
        page = ROOT / "README.md"
        page.write_text(replace_between_marks(page.read_text(), "matrix", text))
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
