"""Starts a job, and again as long as it is allowed: the loop around `launcher`."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from tfdist.launch.errors import FAILED, CommandError
from tfdist.launch.processes import heeded, noted_signals
from tfdist.launch.run import launcher, prepare
from tfdist.launch.run.endings import ENDING_SIGNALS, TOO_FEW_HOSTS, Ending
from tfdist.launch.run.launcher import Options
from tfdist.launch.run.logs import attempt_folder, remove_old
from tfdist.launch.run.machine import Machine
from tfdist.launch.run.plan import Plan, Request
from tfdist.launch.run.restart_options import Restarts
from tfdist.launch.run.restarts import History

_POLL = 0.05
_ASK_AGAIN = 5.0  # seconds between two looks for hosts

_Prepared = tuple[Plan, list[str]]  # and the hosts that are not this machine


@dataclass(frozen=True)
class Task:
    """What the user asked for, in full."""

    request: Request
    machine: Machine
    first_port: int | None  # of the workers of TF_CONFIG
    log_dir: Path | None  # None: a temporary one, kept if a rank fails
    options: Options
    restarts: Restarts


def supervise(task: Task) -> int:
    """Runs the job, restarts included; returns the command's exit code.

    Raises:
        CommandError: Something is wrong before the first start.
    """
    plan, abroad = prepare.prepare(task.request, task.machine, task.first_port)
    folder = task.log_dir or Path(tempfile.mkdtemp(prefix="tfdist-run-"))
    remove_old(folder)
    received: list[int] = []
    with noted_signals(received, *heeded(*ENDING_SIGNALS)):
        loop = _Loop(task, plan, folder, received)
        code = loop.run(plan, abroad)
    if task.log_dir is None and not loop.failed:
        shutil.rmtree(folder, ignore_errors=True)
    return code


class _Loop:
    """The starts of one job.

    Args:
        task: What the user asked for.
        first: The plan of the first start: a restart keeps its strategy.
        folder: Where the logs go.
        received: The signals that this process has been sent.
    """

    def __init__(self, task: Task, first: Plan, folder: Path, received: Sequence[int]):
        self.failed = False  # a rank has, so the logs are of interest
        self._task = task
        self._ranks = first.replicas
        self._controller = first.controller
        self._request = replace(task.request, strategy=first.strategy)
        self._folder = folder
        self._received = received
        self._history = History(task.restarts.policy)

    def run(self, plan: Plan, abroad: Sequence[str]) -> int:
        """Starts the job until it is over; returns the exit code."""
        while True:
            ending = self._start(plan, abroad)
            self.failed = self.failed or bool(ending.what)
            decision = self._history.judge(ending)
            if decision.code is not None:
                _report(ending, decision.counted)
                return decision.code
            step = f" after step {ending.reached}" if ending.reached else ""
            _say(
                f"{ending.what}{step} (log: {ending.log}); {decision.counted}; restart "
                f"{self._history.starts} in {decision.wait:.3g} s"
            )
            again = self._wait(decision.wait) and self._gather()
            if self._received:
                return 128 + self._received[0]
            if not again:
                return TOO_FEW_HOSTS
            plan, abroad = again

    def _start(self, plan: Plan, abroad: Sequence[str]) -> Ending:
        folder, restarts = self._folder, self._history.starts
        if self._task.restarts.policy.is_on:
            folder = attempt_folder(folder, restarts)
        options, received = self._task.options, self._received
        try:
            return launcher.launch(plan, abroad, options, folder, received)
        except CommandError as error:
            if received:
                return Ending(128 + received[0], interrupted=True)
            if not restarts:
                raise
            # A host was lost since it has answered; it will be asked again.
            return Ending(FAILED, str(error), str(folder), f"its logs: {folder}")

    def _gather(self) -> _Prepared | None:
        """Returns a restart's plan; None if too few hosts answer, or at a signal."""
        limit = self._task.restarts.hosts_timeout
        deadline = time.monotonic() + limit
        said = ""
        while True:
            prepared, text = self._regroup()
            if self._received:
                return None
            if prepared is not None:
                _say(f"restart {self._history.starts} with {text}")
                return prepared
            if time.monotonic() > deadline:
                _say(f"no restart within {limit:g} s: {text}")
                return None
            if text != said:
                _say(f"no restart yet: {text}")
                said = text
            if not self._wait(_ASK_AGAIN):
                return None

    def _regroup(self) -> tuple[_Prepared | None, str]:
        """Returns a plan for the hosts that answer now, and where; or why not."""
        request = replace(self._request, restarts=self._history.starts)
        machine, ranks = self._task.machine, self._ranks
        without = ""
        if request.hosts:
            controller = self._controller if len(request.hosts) > 1 else None
            kept, lost = prepare.answering(request, machine, controller, self._received)
            ranks = min(ranks, sum(host.slots for host in kept))
            request = replace(request, hosts=kept, processes=ranks)
            without = "".join(f"; without {host}: {why}" for host, why in lost.items())
        least = self._task.restarts.min_ranks or self._ranks
        if ranks < least:
            return None, f"{ranks} of at least {least} ranks have a host{without}"
        try:
            port = self._task.first_port
            prepared = prepare.prepare(request, machine, port, self._received)
        except CommandError as error:
            return None, f"{error}{without}"
        return prepared, f"{_where(prepared[0])}{without}"

    def _wait(self, seconds: float) -> bool:
        """Returns whether the time has passed, and not a signal come before."""
        deadline = time.monotonic() + seconds
        while not self._received and time.monotonic() < deadline:
            time.sleep(_POLL)
        return not self._received


def _where(plan: Plan) -> str:
    """Returns "3 ranks on h1, h2"."""
    hosts = dict.fromkeys(rank.host for rank in plan.ranks)
    count = f"{plan.size} ranks" if plan.size > 1 else "1 rank"
    return f"{count} on {', '.join(hosts)}"


def _report(ending: Ending, why: str) -> None:
    if ending.what:
        reason = f" ({why})" if why else ""
        _say(f"{ending.what}{reason}; {ending.detail}")


def _say(text: str) -> None:
    with suppress(OSError):  # nobody reads any more; the job goes on
        sys.stdout.flush()
        print(f"tfdist: {text}", file=sys.stderr, flush=True)
