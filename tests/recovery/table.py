"""Makes the table of failures in docs/recovery.md from a test run's report.

    python -m tests.recovery.table                   runs the marked tests and prints
    python -m tests.recovery.table --full --write    the long ones too, into the page
    python -m tests.recovery.table --report junit.xml    of a run that there was

A report is what `pytest --junitxml` writes. Exit code 1: a row has no test that passed.
"""

import argparse
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from tests.pages import line, replace_between_marks
from tests.recovery.failures import FAILURES

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "recovery.md"
PROPERTY = "failure"

# Rows that no test can prove, and what shows them: tests never assert times.
ABSENT = {43: "measured, see [below](#what-it-costs)"}


class Outcome(NamedTuple):
    """How one test of a row ended."""

    file: str
    test: str
    result: str  # "passed", "failed", "skipped: why"


def run(report: Path, full: bool) -> None:
    """Runs all marked tests and writes the report."""
    marked = "failure" if full else "failure and not full"
    command = [sys.executable, "-m", "pytest", "tests", "-q", "-m", marked]
    subprocess.run([*command, f"--junitxml={report}"], cwd=ROOT, check=False)


def read(report: Path) -> dict[int, list[Outcome]]:
    """Returns the outcomes of each row."""
    found: dict[int, list[Outcome]] = defaultdict(list)
    for case in ElementTree.parse(report).iter("testcase"):
        for each in case.iter("property"):
            if each.get("name") == PROPERTY:
                outcome = Outcome(
                    f"{case.get('classname', '').replace('.', '/')}.py",
                    case.get("name", "").partition("[")[0],
                    _result(case),
                )
                found[int(each.get("value", 0))].append(outcome)
    return dict(found)


def _result(case: ElementTree.Element) -> str:
    if case.find("failure") is not None or case.find("error") is not None:
        return "failed"
    skipped = case.find("skipped")
    return "passed" if skipped is None else f"skipped: {skipped.get('message', '')}"


def summary(outcomes: Sequence[Outcome]) -> str:
    """Returns the result of a row's tests."""
    results = [outcome.result for outcome in outcomes]
    if "failed" in results:
        return f"**{results.count('failed')} of {len(results)} failed**"
    passed = results.count("passed")
    if not passed:
        return results[0] if results else "–"
    skipped = len(results) - passed
    return f"{passed} passed" + (f", {skipped} skipped" if skipped else "")


def markdown(found: dict[int, list[Outcome]]) -> str:
    """Returns the table."""
    lines = [line(["", "failure", "what happens", "tests", "result"]), "|---" * 5 + "|"]
    group = ""
    for number, failure in FAILURES.items():
        if failure.group != group:
            group = failure.group
            lines.append(line(["", f"**{group}**", "", "", ""]))
        outcomes = found.get(number, [])
        files = defaultdict(set)
        for outcome in outcomes:
            files[outcome.file].add(f"`{outcome.test.removeprefix('test_')}`")
        tests = [f"{file}: {', '.join(sorted(files[file]))}" for file in sorted(files)]
        cells = [str(number), failure.what, failure.then]
        result = ABSENT.get(number) or summary(outcomes)
        lines.append(line([*cells, "<br>".join(tests) or "–", result]))
    return "\n".join([*lines, ""])


def missing(found: dict[int, list[Outcome]]) -> list[int]:
    """Returns the rows of which no test passed, or one failed."""
    results = {
        number: {outcome.result for outcome in found.get(number, [])}
        for number in FAILURES
        if number not in ABSENT
    }
    return [
        n for n, seen in results.items() if "passed" not in seen or "failed" in seen
    ]


def main() -> int:
    """Prints the table, writes it if asked to, and returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--report", type=Path, action="append")
    parser.add_argument("--full", action="store_true", help="the long tests too")
    parser.add_argument("--write", action="store_true", help="into docs/recovery.md")
    options = parser.parse_args()
    found: dict[int, list[Outcome]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        reports = options.report or [Path(folder) / "report.xml"]
        if not options.report:
            run(reports[0], options.full)
        for report in reports:
            for number, outcomes in read(report).items():
                found[number] += outcomes
    text = markdown(found)
    print(text)
    if options.write:
        PAGE.write_text(replace_between_marks(PAGE.read_text(), "failures", text))
    unproved = missing(found)
    if unproved:
        print(f"not proved: {', '.join(map(str, unproved))}", file=sys.stderr)
    return int(bool(unproved))


if __name__ == "__main__":
    sys.exit(main())
