"""Starts what the plan says, waits, and ends all of it."""

from __future__ import annotations

import os
import resource
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from tfdist.coordination.addresses import candidates
from tfdist.coordination.server import Server
from tfdist.launch.errors import FAILED, CommandError
from tfdist.launch.processes import child_environment, end, last_text, tail
from tfdist.launch.run import remote
from tfdist.launch.run.endings import Ending
from tfdist.launch.run.job import STALLED, Job
from tfdist.launch.run.logs import LAUNCHER_LOG, Logs
from tfdist.launch.run.plan import WRAPPER, Plan
from tfdist.launch.run.stacks import innermost
from tfdist.launch.run.ticket import VARIABLE, Ticket, remove, store

START_SECONDS = 180.0  # for all ranks to connect

_POLL = 0.05
# horovodrun itself, which only starts later: the plan's command says what is meant.
_HOROVODRUN = (sys.executable, "-m", "tfdist.launch.run.horovodrun")
_FAREWELL = 10.0  # seconds for horovodrun or ssh to end after its ranks
_TOKEN_BYTES = 32
_OWN_FILES = 256  # that are open beside the ranks' logs and connections


@dataclass(frozen=True)
class Options:
    """How to run a plan."""

    grace: float  # seconds
    stall_timeout: float  # seconds; 0 for no limit


def launch(
    plan: Plan,
    others: Sequence[str],
    options: Options,
    folder: Path,
    received: Sequence[int],
) -> Ending:
    """Runs the job to its end; however this ends, no process of it is left.

    Args:
        plan: What to start.
        others: The hosts of the plan that are not this machine.
        options: How.
        folder: Where the logs go.
        received: The signals that this process is sent; the caller appends them.

    Returns:
        How it ended. The code is the first failing rank's, or 128 plus the signal
        that ended this command, or `job.STALLED`.

    Raises:
        CommandError: A host could not be given what its ranks need, or not before
            a signal came.
    """
    _allow_open_files(2 * plan.size + _OWN_FILES)
    logs = Logs(folder, plan.size)
    job = Job(
        [rank.host for rank in plan.ranks],
        options.stall_timeout,
        logs.write,
        logs.record,
    )
    engines: list[subprocess.Popen[bytes]] = []
    with ExitStack() as stack:
        stack.callback(logs.close)
        token = secrets.token_bytes(_TOKEN_BYTES)
        bind = None if others else "127.0.0.1"
        server = Server(plan.size, token, bind, job)
        stack.callback(server.stop, 1.0)
        ticket = _ticket(plan, options, server.port, token, candidates(bind))
        path = _ticket_path()
        store(ticket.encoded(), path)
        stack.callback(remove, path)
        if plan.command and others:
            question = {"store": ticket.encoded(), "path": str(path)}
            _ask_others(others, question, received)
        stack.callback(_end_all, engines)
        engines += _start(plan, others, ticket, path, logs)
        code = _wait(job, engines, received, options)
        if plan.command and others and job.missing:
            # Where a rank has run, its wrapper has removed the ticket.
            with suppress(CommandError):
                _ask_others(others, {"remove": str(path)})
    if received and job.verdict is None:
        return Ending(128 + received[0], interrupted=True)
    ending = _ending(job, plan.size, logs, code) if code else Ending(0)
    return replace(ending, interrupted=bool(received))


def _allow_open_files(number: int) -> None:
    """Raises the limit of open files, mostly 1024, as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        number = min(number, hard)
    if soft != resource.RLIM_INFINITY and soft < number:
        resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))


def _start(
    plan: Plan, others: Sequence[str], ticket: Ticket, path: Path, logs: Logs
) -> Iterator[subprocess.Popen[bytes]]:
    environment = child_environment({**plan.environment, VARIABLE: str(path)})
    for name in plan.removed:
        if name not in plan.environment:
            environment.pop(name, None)
    if plan.command:
        yield _popen([*_HOROVODRUN, *plan.command[1:]], environment, logs)
        return
    # As horovodrun does, so that a script finds the same variables everywhere.
    abroad = replace(ticket, environment=remote.exported(environment))
    for number, rank in enumerate(plan.ranks):
        words = [*WRAPPER, "--rank", str(number)]
        if rank.host not in others:
            yield _popen([sys.executable, *words], environment, logs)
            continue
        command = remote.remote_command(rank.host, *words, "--stdin")
        process = _popen(command, environment, logs, stdin=subprocess.PIPE)
        if process.stdin is not None:
            with suppress(BrokenPipeError), process.stdin as pipe:
                pipe.write(abroad.encoded().encode() + b"\n")
        yield process


def _popen(
    command: Sequence[str],
    environment: Mapping[str, str],
    logs: Logs,
    stdin: int = subprocess.DEVNULL,
) -> subprocess.Popen[bytes]:
    # In a session of its own: the terminal's Ctrl-C is for us, who pass it on once.
    return subprocess.Popen(
        command,
        stdin=stdin,
        stdout=logs.launcher,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,
    )


def _wait(
    job: Job,
    engines: Sequence[subprocess.Popen[bytes]],
    received: Sequence[int],
    options: Options,
) -> int:
    """Waits for the end of all ranks, and passes on what ends them earlier."""
    passed = killed = False
    started = time.monotonic()
    kill_at = engines_ended = None
    failed = False
    while True:
        now = time.monotonic()
        if received and not passed:
            passed = True
            job.ask({"end": received[0]})
        # Only a user's impatience: schedulers and `timeout` send several signals, too.
        if signal.SIGINT in received[1:] and not killed:
            killed = True
            job.ask({"kill": True})
        if job.verdict is not None or passed or failed:
            kill_at = kill_at or now + options.grace + _FAREWELL
        elif job.missing and now > started + START_SECONDS:
            failed = True
            job.ask({"end": int(signal.SIGTERM)})
        if any(engine.poll() for engine in engines) and job.missing and not failed:
            failed = True
            job.ask({"end": int(signal.SIGTERM)})
        if all(engine.poll() is not None for engine in engines):
            engines_ended = engines_ended or now
        late = kill_at is not None and now > kill_at
        gone = engines_ended is not None and now > engines_ended + 2.0
        if late or gone or (job.over and (not job.missing or kill_at)):
            break
        time.sleep(_POLL)
    job.ask({"done": True})
    deadline = time.monotonic() + _FAREWELL
    while any(engine.poll() is None for engine in engines):
        if time.monotonic() > deadline or job.missing:
            break  # what has not started yet is ended with its launcher
        time.sleep(_POLL)
    if job.verdict is not None:
        return job.verdict.code
    return FAILED if failed or job.missing or not job.over else 0


def _ending(job: Job, size: int, logs: Logs, code: int) -> Ending:
    """Describes a failure, with the end of the log that matters and nothing else."""
    if job.verdict is None:
        log = logs.folder / LAUNCHER_LOG
        missing = ", ".join(map(str, job.missing))
        what = (
            f"the ranks could not be started (missing: {missing})"
            if missing
            else "the ranks came too late, or what had started them ended before them"
        )
        return Ending(code, what, str(log), f"the end of {log}:\n{tail(log)}")
    rank = job.verdict.rank
    log = logs.path(rank)
    what = f"rank {rank} of {size} on {job.host(rank)} {job.verdict.what}"
    if code == STALLED and (stack := innermost(last_text(log))):
        detail = f"all its stacks: {log}\n{stack}"
    elif rank == 0:  # all that it wrote has just been shown
        detail = f"its log: {log}"
    else:
        detail = f"the end of {log}:\n{tail(log)}"
    return Ending(code, what, str(log), detail, job.verdict.reached)


def _ticket(
    plan: Plan, options: Options, port: int, token: bytes, addresses: Sequence[str]
) -> Ticket:
    window = shutil.get_terminal_size()
    return Ticket(
        size=plan.size,
        addresses=tuple(addresses),
        port=port,
        token=token.hex(),
        script=plan.script,
        environment=plan.environment,
        environments=tuple(rank.environment for rank in plan.ranks),
        removed=plan.removed,
        grace=options.grace,
        terminals=(sys.stdout.isatty(), sys.stderr.isatty()),
        window=(window.columns, window.lines),
        folder=os.getcwd(),
    )


def _ticket_path() -> Path:
    name = f"tfdist-ticket-{socket.gethostname()}-{secrets.token_hex(8)}"
    return Path(tempfile.gettempdir()) / name / "ticket.json"


def _ask_others(
    others: Sequence[str], question: Mapping[str, str], received: Sequence[int] = ()
) -> None:
    remote.ask_all(others, [question] * len(others), received)


def _end_all(engines: Sequence[subprocess.Popen[bytes]]) -> None:
    for engine in engines:
        end(engine)
