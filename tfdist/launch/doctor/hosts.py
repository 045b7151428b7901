"""Asks other hosts for their facts over ssh, all at once and on a time limit."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tfdist.launch.arguments import Host
from tfdist.launch.doctor import facts as facts_module
from tfdist.launch.doctor.facts import FLAG, MARK, Facts
from tfdist.launch.doctor.reading import from_json
from tfdist.launch.here import own_names
from tfdist.launch.processes import (
    TIMED_OUT,
    Program,
    child_environment,
    find_program,
    run_together,
)
from tfdist.launch.ssh import NOTICE_SILENCE, SSH_FAILED, python_line, ssh_command

ANSWER_SECONDS = 120.0  # imports may take IMPORT_SECONDS, and programs theirs
NO_COMMAND = 127  # the exit code of a shell that does not find a program


@dataclass(frozen=True)
class Answer:
    """What one host of -H answered."""

    host: Host
    facts: Facts | None = None
    error: str = ""  # why there are no facts
    asked: float = 0.0  # Unix time here, before and after the answer
    answered: float = 0.0


def ask(hosts: Sequence[Host], here: Facts) -> tuple[Answer, ...]:
    """Returns one answer per host, in their order.

    Args:
        hosts: The hosts of -H.
        here: The facts about this host, which is not asked again.
    """
    own = own_names()
    remote = [host for host in hosts if host.name not in own]
    if remote and find_program("ssh") is None:
        answers = {host: Answer(host, error="this host has no ssh") for host in remote}
    else:
        answers = dict(zip(remote, _ask_remote(remote), strict=True))
    return tuple(
        answers.get(host)
        or Answer(host, here, asked=here.clock_before, answered=here.clock_after)
        for host in hosts
    )


def _ask_remote(hosts: Sequence[Host]) -> list[Answer]:
    with tempfile.TemporaryDirectory(prefix="tfdist-doctor-") as folder:
        programs = [
            Program(
                ssh_command(host.name, python_line("-", FLAG), *NOTICE_SILENCE),
                Path(folder, f"{number}.log"),
                child_environment(),
                stdin=Path(facts_module.__file__),
            )
            for number, host in enumerate(hosts)
        ]
        asked = time.time()
        codes = run_together(programs, timeout=ANSWER_SECONDS, keep_going=True)
        return [
            read_answer(
                host,
                code,
                program.log.read_text(errors="replace"),
                asked=asked,
                answered=program.log.stat().st_mtime,  # when its last line arrived
            )
            for host, code, program in zip(hosts, codes, programs, strict=True)
        ]


def read_answer(
    host: Host, exit_code: int, output: str, *, asked: float, answered: float
) -> Answer:
    """Returns what a host's output means.

    Args:
        host: Whom we asked.
        exit_code: That of ssh.
        output: All that ssh and the host have printed.
        asked: Unix time of the question.
        answered: Unix time of the answer's last line.
    """
    for line in output.splitlines():
        _, mark, text = line.partition(MARK)
        if mark:
            try:
                facts = from_json(text)
            except ValueError as error:
                return Answer(host, error=f"an answer that cannot be read ({error})")
            return Answer(host, facts, asked=asked, answered=answered)
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    last = lines[-1] if lines else f"no answer, exit code {exit_code}"
    if exit_code == TIMED_OUT:
        last = f"no answer within {ANSWER_SECONDS:.0f} s"
    elif exit_code == NO_COMMAND:
        last = f"there is no {sys.executable}"
    elif exit_code == SSH_FAILED:
        last = f"ssh: {last.removeprefix('ssh: ')}"
    return Answer(host, error=last)
