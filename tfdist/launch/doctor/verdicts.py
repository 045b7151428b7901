"""What a check finds, and what it is given to look at."""

from __future__ import annotations

from dataclasses import dataclass

from tfdist.launch.doctor.facts import Facts
from tfdist.launch.doctor.hosts import Answer

OK = "ok"
FAILED = "failed"
SKIPPED = "skipped"  # there is nothing to check here, or the facts are missing


@dataclass(frozen=True)
class Verdict:
    """The result of one check."""

    status: str  # OK, FAILED or SKIPPED
    text: str  # what was found, one line
    hint: str = ""  # what repairs it; only where it failed


@dataclass(frozen=True)
class Examination:
    """All that a check may look at."""

    here: Facts
    answers: tuple[Answer, ...] = ()  # of the hosts of -H; empty: none was given

    @property
    def reached(self) -> tuple[tuple[Answer, Facts], ...]:
        """The hosts that answered, with their facts."""
        return tuple(
            (answer, answer.facts)
            for answer in self.answers
            if answer.facts is not None
        )


def ok(text: str) -> Verdict:
    """Returns the verdict that all is well."""
    return Verdict(OK, text)


def failed(text: str, hint: str) -> Verdict:
    """Returns the verdict that something has to be repaired."""
    return Verdict(FAILED, text, hint)


def skipped(text: str) -> Verdict:
    """Returns the verdict that nothing was checked, and why."""
    return Verdict(SKIPPED, text)
