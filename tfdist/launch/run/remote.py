"""Other hosts: how to run something there, and what is wrong before a job starts."""

from __future__ import annotations

import json
import os
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfdist.launch.errors import CommandError
from tfdist.launch.processes import (
    TIMED_OUT,
    Program,
    child_environment,
    run_together,
)
from tfdist.launch.run import probe
from tfdist.launch.ssh import SSH_FAILED, python_line, ssh_command

PROBE_SECONDS = 60.0

# Variables of a login, which mean nothing on another host; horovodrun leaves out
# CUDA_VISIBLE_DEVICES, too.
_OF_THIS_HOST = ("DISPLAY", "HOSTNAME", "OLDPWD", "PWD", "SHLVL", "TFDIST_TICKET", "_")
_OF_THIS_HOST_PREFIXES = ("BASH_FUNC_", "CUDA_VISIBLE_DEVICES", "DBUS_", "SSH_", "XDG_")


def remote_command(host: str, *words: str) -> list[str]:
    """Returns the ssh command that runs this interpreter there, in this folder."""
    folder = shlex.quote(os.getcwd())
    return ssh_command(host, f"cd {folder} && exec {python_line(*words)}")


def exported(environ: Mapping[str, str]) -> dict[str, str]:
    """Returns the variables that go to other hosts, as with horovodrun."""
    return {
        name: value
        for name, value in environ.items()
        if name not in _OF_THIS_HOST and not name.startswith(_OF_THIS_HOST_PREFIXES)
    }


def ask_all(
    hosts: Sequence[str],
    questions: Sequence[Mapping[str, Any]],
    received: Sequence[int] = (),
) -> list[dict[str, Any]]:
    """Asks every host a question for `probe`, all at once; answers in their order.

    Args:
        hosts: Their names.
        questions: One for each.
        received: The signals that this process is sent: no answer is waited for
            once there is one.

    Raises:
        CommandError: A host cannot be reached, or has no tfdist in the same place,
            or has not answered before a signal came.
    """
    answers = []
    for answer in ask_each(hosts, questions, received):
        if isinstance(answer, CommandError):
            raise answer
        answers.append(answer)
    return answers


def ask_each(
    hosts: Sequence[str],
    questions: Sequence[Mapping[str, Any]],
    received: Sequence[int] = (),
) -> list[dict[str, Any] | CommandError]:
    """Returns what each host answers, or why there is no answer; see `ask_all`."""
    # This user's alone: a question may hold the job's secret.
    with tempfile.TemporaryDirectory(prefix="tfdist-ask-") as folder:
        programs = []
        for number, (host, question) in enumerate(zip(hosts, questions, strict=True)):
            asked = Path(folder, f"{number}.json")
            asked.write_text(json.dumps(question) + "\n")
            command = remote_command(host, "-m", "tfdist.launch.run.probe")
            log = Path(folder, f"{number}.log")
            programs.append(Program(command, log, child_environment(), stdin=asked))
        codes = run_together(
            programs,
            timeout=PROBE_SECONDS,
            keep_going=True,
            stop=lambda: bool(received),
        )
        return [
            _read(host, code, program.log.read_text(errors="replace"))
            for host, code, program in zip(hosts, codes, programs, strict=True)
        ]


def check_all(
    found: Mapping[str, Mapping[str, Any]],
    here: Mapping[str, str],
    *,
    controller: str | None,
) -> None:
    """Refuses hosts on which the job would fail, hang or differ. Pure.

    Args:
        found: What `probe.facts` returns, for each host of the job.
        here: The versions on this machine.
        controller: What connects several hosts with Horovod, else None.

    Raises:
        CommandError: With the first host and what is wrong with it.
    """
    for host, facts in found.items():
        for title, version in here.items():
            there = facts["versions"].get(title, "missing")
            if there != version:
                raise CommandError(
                    f"{host} has {title} {there}, and this machine {version}.",
                    hint=f"install the same versions in {sys.prefix} on every host",
                )
        if not facts["script"]:
            raise CommandError(
                f"The script is not on {host} at the same place.",
                hint="use a shared folder, or copy it there",
            )
        addresses = facts["addresses"]
        if controller == "gloo" and all(
            address.startswith("127.") for address in addresses
        ):
            # GlooContext::InitializeForProcessSet (Horovod 0.28.1) ignores the chosen
            # interface and listens where the host's own name leads; no variable
            # changes that.
            name = facts["name"]
            raise CommandError(
                f"{host} resolves its own name {name!r} to "
                f"{' and '.join(addresses) or 'nothing'}, where Horovod's Gloo would "
                "listen and no other host can connect.",
                hint=f"give {name} its network address in /etc/hosts there, or use "
                "--controller mpi",
            )
    if controller is not None:
        _check_interfaces({host: facts["interfaces"] for host, facts in found.items()})


def _check_interfaces(names: Mapping[str, Sequence[str]]) -> None:
    """Refuses hosts without an interface of one name, which horovodrun insists on."""
    if names and not set.intersection(*map(set, names.values())):
        each = ", ".join(
            f"{' and '.join(own) or 'none'} on {host}" for host, own in names.items()
        )
        raise CommandError(
            f"The hosts have no network interface of the same name: {each}.",
            hint="rename one (`ip link set OLD name NEW`), or --strategy multiworker",
        )


def _read(host: str, code: int, output: str) -> dict[str, Any] | CommandError:
    """Returns the answer in all that ssh and the host have printed."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for line in lines:
        if code == 0 and line.startswith(probe.MARK):
            answer: dict[str, Any] = json.loads(line.removeprefix(probe.MARK))
            return answer
    said = lines[-1] if lines else "it said nothing"
    if code == TIMED_OUT:
        return CommandError(
            f"{host} did not answer over ssh within {PROBE_SECONDS:.0f} s.",
            hint=f"try `ssh {host} true`",
        )
    if code == SSH_FAILED:
        return CommandError(
            f"{host} cannot be reached by ssh: {said}.",
            hint=f"`ssh {host} true` has to work without any question",
        )
    return CommandError(
        f"tfdist cannot be started on {host}: {said}.",
        hint=f"install the same as here in {sys.prefix} there, and have the folder "
        f"{os.getcwd()}",
    )
