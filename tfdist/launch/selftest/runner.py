"""Starts the processes of the self-test and prints what came of each check."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tfdist.launch.processes import TIMED_OUT, run_together
from tfdist.launch.selftest.judge import Outcome, judge, read_outcome, seconds
from tfdist.launch.selftest.registry import CHECKS
from tfdist.launch.selftest.ways import Way, reference_way

PROGRAM = ("-m", "tfdist.launch.selftest.program")
TIMEOUT_SECONDS = 200.0  # for each start; an idle machine needs less than 20


def run_all(ways: Sequence[Way], np: int) -> int:
    """Runs every check in every way and returns how many failed.

    Args:
        ways: What to try; those with a reason not to are only mentioned.
        np: How many replicas.
    """
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="tfdist-selftest-"))
    failures = 0
    ran = 0
    reference = reference_way()
    references: list[Outcome | None] = []
    for group in in_groups([reference, *(way for way in ways if not way.missing)]):
        endings = run(group, np, folder)
        for way, ending in zip(group, endings, strict=True):
            if way is reference:
                place = folder / way.title
                references = [read_outcome(place, check, 0) for check in CHECKS]
                continue
            ran += len(CHECKS)
            failures += report(way, ending, folder / way.title, references)
    for way in ways:
        if way.missing:
            print(f"{way.title:18} {'':12} skipped: {way.missing}")
    took = time.monotonic() - began
    if failures:
        print(f"selftest: {failures} of {ran} checks failed; logs are in {folder}")
        return failures
    shutil.rmtree(folder)
    print(f"selftest: {ran} checks passed on {np} ranks in {took:.0f} s")
    return 0


def in_groups(ways: Sequence[Way]) -> list[list[Way]]:
    """Returns what runs side by side: single processes together, jobs alone."""
    singles = [way for way in ways if way.ranks == 1]
    return [singles, *([way] for way in ways if way.ranks > 1)]


def run(group: Sequence[Way], np: int, folder: Path) -> list[str]:
    """Runs ways side by side; returns how each of them ended, "" for well."""
    programs = []
    owners = []
    for way in group:
        place = folder / way.title
        place.mkdir()
        words = ["--strategy", way.strategy, "-np", str(np), "--out", str(place)]
        started = way.start([*PROGRAM, *words], place)
        programs += started
        owners += [way] * len(started)
    codes = run_together(programs, timeout=TIMEOUT_SECONDS, keep_going=len(group) > 1)
    endings = {way.title: "" for way in group}
    for way, code in zip(owners, codes, strict=True):
        if code == TIMED_OUT:
            endings[way.title] = f"did not end within {TIMEOUT_SECONDS:.0f} s"
        elif code and not endings[way.title]:
            endings[way.title] = f"exit code {code}"
    return list(endings.values())


def report(
    way: Way, ending: str, folder: Path, references: Sequence[Outcome | None]
) -> int:
    """Prints one line per check of a way; returns how many did not pass."""
    failures = 0
    for check, reference in zip(CHECKS, references, strict=True):
        ranks = [read_outcome(folder, check, rank) for rank in range(way.ranks)]
        if failures and not any(ranks):
            print(f"{way.title:18} {check.name:12} not run")
            failures += 1
            continue
        reason = judge(check, ranks, reference)
        if reason and None in ranks and ending:
            reason += f" ({ending})"
        if reason:
            print(f"{way.title:18} {check.name:12} FAILED: {reason}", flush=True)
            failures += 1
        else:
            took = seconds(ranks)
            print(f"{way.title:18} {check.name:12} pass ({took:.1f} s)", flush=True)
    return failures
