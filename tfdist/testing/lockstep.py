"""Runs every test on all ranks at once, and reports it once."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Generator
from typing import Any

import pytest
from _pytest.runner import runtestprotocol
from _pytest.terminal import TerminalReporter

from tfdist.coordination.launch import Launch
from tfdist.coordination.wire import Message
from tfdist.coordination.wording import short
from tfdist.errors import TfdistError
from tfdist.testing import meeting
from tfdist.testing.ending import Ending
from tfdist.testing.told import Told
from tfdist.testing.umpire import INSIDE, MAX_TEXT


def start(config: pytest.Config, launch: Launch, timeout: float, grace: float) -> None:
    """Connects the ranks, silences all but the chief, and registers the hooks.

    Args:
        config: pytest's configuration.
        launch: This rank's place in the job.
        timeout: Seconds for one test; 0 for any time.
        grace: Seconds for the others after one rank has failed.

    Raises:
        pytest.UsageError: The ranks do not find each other, or pytest-xdist is on.
    """
    if config.getoption("numprocesses", None):
        raise pytest.UsageError(
            "pytest-xdist and several ranks exclude each other.\n"
            "HINT: Leave out -n: the launcher's -np is the number of processes."
        )
    try:
        met = meeting.start(launch, config.rootpath, timeout, grace)
    except (OSError, TfdistError, meeting.Ended) as error:
        raise pytest.UsageError(str(error)) from None
    if launch.rank > 0:
        _silence(config)
    hooks = LockStep(config, launch, met, timeout)
    config.pluginmanager.register(hooks, "tfdist-lockstep")


def _silence(config: pytest.Config) -> None:
    """Sends what pytest prints nowhere; the chief prints the same."""
    reporter = config.pluginmanager.getplugin("terminalreporter")
    if reporter is not None:
        config.pluginmanager.unregister(reporter)
        quiet = TerminalReporter(config, open(os.devnull, "w"))
        config.pluginmanager.register(quiet, "terminalreporter")


class LockStep:
    """The hooks of one rank.

    Args:
        config: pytest's configuration.
        launch: This rank's place in the job.
        met: Its connection to the others.
        timeout: Seconds for one test; 0 for any time.
    """

    def __init__(
        self,
        config: pytest.Config,
        launch: Launch,
        met: meeting.Meeting,
        timeout: float,
    ) -> None:
        self._launch = launch
        self._meeting = met
        self._is_chief = launch.rank == 0
        self._current: pytest.Item | None = None
        self._collected_badly = False
        self._ending = Ending(config, launch.rank, met, timeout, self.report_end)
        met.on_end = self._ending.begin

    def pytest_report_header(self) -> str:
        """Tells how many ranks run."""
        size, launcher = self._launch.size, self._launch.launcher
        return f"tfdist: {size} ranks in lock-step ({launcher})"

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self) -> None:
        """Bounds the imports of the test files."""
        self._ending.arm()

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Tells the others that this rank cannot collect."""
        if report.failed:
            self._collected_badly = True
            self._announce("collection", report)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Makes sure that all ranks run the same tests in the same order."""
        names = "\n".join(item.nodeid for item in session.items)
        digest = hashlib.sha256(names.encode()).hexdigest()[:8]
        failures = self._meet(f"the list of {len(session.items)} tests ({digest})")
        if failures and not (self._is_chief and self._collected_badly):
            pytest.exit(f"collection failed\n{self._told(failures)}", returncode=2)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> bool:
        """Runs one test between two meetings, and reports what all ranks found."""
        self._meet(INSIDE + item.nodeid)
        self._current = item
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        failures = self._meet(f"the end of {item.nodeid}")
        if failures:
            reports = self._with_failure(reports, failures)
        for report in reports:
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        self._current = None
        return True

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Tells the others at once that this rank has failed: they may wait for it."""
        report = yield
        if report.failed:
            self._announce(report.when, report)
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Gives all ranks the same exit code."""
        if self._meeting.end is None:
            try:
                agreed = self._meeting.meet("the end of the run", int(exitstatus))
            except meeting.Ended as ended:
                self._stop(ended)
            else:
                session.exitstatus = agreed["code"]

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        """Lets the chief write its report before any launcher ends it."""
        self._ending.disarm()
        if self._is_chief:
            self._ending.finish()
        self._meeting.over.wait(30.0)
        self._meeting.close()

    def _meet(self, what: str) -> list[Message]:
        self._ending.arm()
        try:
            return list(self._meeting.meet(what)["failures"])
        except meeting.Ended as ended:
            self._stop(ended)
            raise  # not reached

    def _stop(self, ended: meeting.Ended) -> None:
        if not self._is_chief:
            threading.Event().wait()  # until the chief has reported; see Ending
        self._ending.taken.set()
        self.report_end()
        pytest.exit(str(ended), returncode=1)

    def report_end(self) -> None:
        """Reports the test in which the run ended, with what is known of it."""
        item, end = self._current, self._meeting.end
        if item is None or end is None:
            return
        self._current = None
        failures = end["failures"]
        told = self._told(failures).followed_by(end["end"]) if failures else end["end"]
        report = pytest.TestReport(
            item.nodeid,
            item.location,
            {},
            "failed",
            told,
            "call",
        )
        item.ihook.pytest_runtest_logreport(report=report)

    def _announce(
        self, when: str, report: pytest.TestReport | pytest.CollectReport
    ) -> None:
        crash = getattr(report.longrepr, "reprcrash", None)
        line = getattr(crash, "message", "") or report.longreprtext
        failure = {"when": when, "line": short(line), "text": _text(report)}
        self._meeting.send({"failed": failure})

    def _told(self, failures: list[Message]) -> Told:
        first = failures[0]
        others = "".join(
            f"then rank {one['rank']} in {one['when']}: {one['line']}\n"
            for one in failures[1:]
            if one["rank"] != first["rank"]
        )
        headline = (
            f"rank {first['rank']} of {self._launch.size} failed in {first['when']}: "
            f"{first['line']}"
        )
        return Told(headline, f"{first['text']}\n{others}")

    def _with_failure(
        self, reports: list[pytest.TestReport], failures: list[Message]
    ) -> list[pytest.TestReport]:
        """Replaces this rank's report by the first failing rank's, in its phase."""
        when = failures[0]["when"]
        kept = [report for report in reports if report.when != when]
        mine: Any = next((one for one in reports if one.when == when), reports[-1])
        failed = pytest.TestReport(
            mine.nodeid,
            mine.location,
            mine.keywords,
            "failed",
            self._told(failures),
            when,
            (),  # the text has those of the rank that failed
            mine.duration,
        )
        # Consequences on this rank, in other phases, are told in the text.
        kept = [report for report in kept if not report.failed]
        return [*kept, failed] if when == "teardown" else [failed, *kept]


def _text(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Returns a failure as the chief is to show it: captured output, then error."""
    captured = "".join(
        f"--- {title} ---\n{content.rstrip()}\n"
        for title, content in report.sections
        if content.strip()
    )
    return captured[-MAX_TEXT // 3 :] + report.longreprtext[-MAX_TEXT // 2 :]
