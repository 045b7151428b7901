"""From what the user asked for to a plan that can be started: hosts are asked here."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from tfdist.launch.arguments import Host
from tfdist.launch.errors import CommandError
from tfdist.launch.ports import free_ports
from tfdist.launch.run import probe, remote
from tfdist.launch.run.machine import Machine
from tfdist.launch.run.plan import Plan, Request, make_plan


def sketch(request: Request, machine: Machine, first_port: int | None) -> Plan:
    """Returns the plan without asking other hosts; their ports are still open.

    Args:
        request: What the user asked for.
        machine: What this machine has.
        first_port: The first port of the workers of TF_CONFIG; None for free ones.

    Raises:
        CommandError: The request contradicts itself or cannot be met here.
    """
    plan = make_plan(request, machine, os.environ, {})
    ports = _own_ports(plan, others(plan.hosts, machine), first_port)
    return make_plan(request, machine, os.environ, ports)


def prepare(
    request: Request,
    machine: Machine,
    first_port: int | None,
    received: Sequence[int] = (),
) -> tuple[Plan, list[str]]:
    """Returns the plan and the hosts that are not this machine, which were asked.

    Args:
        request: What the user asked for.
        machine: What this machine has.
        first_port: The first port of the workers of TF_CONFIG; None for free ones.
        received: See `remote.ask_all`.

    Raises:
        CommandError: Something is wrong here or on another host.
    """
    plan = make_plan(request, machine, os.environ, {})
    abroad = others(plan.hosts, machine)
    ports = _own_ports(plan, abroad, first_port)
    if abroad:
        ports |= _check_others(plan, abroad, first_port, received)
    return make_plan(request, machine, os.environ, ports), abroad


def others(hosts: Sequence[Host], machine: Machine) -> list[str]:
    """Returns the names of the hosts that are not this machine."""
    return [host.name for host in hosts if host.name not in machine.own_names]


def answering(
    request: Request,
    machine: Machine,
    controller: str | None,
    received: Sequence[int],
) -> tuple[tuple[Host, ...], dict[str, str]]:
    """Returns the hosts that answer and on which the job would run.

    Args:
        request: What the user asked for, with all hosts.
        machine: What this machine has.
        controller: Horovod's, where it is used.
        received: See `remote.ask_all`.

    Returns:
        These hosts; and for each of the others, the reason.
    """
    abroad = others(request.hosts, machine)
    question = {"script": request.script, "ports": 0, "first": None}
    lost: dict[str, str] = {}
    answers = remote.ask_each(abroad, [question] * len(abroad), received)
    for host, answer in zip(abroad, answers, strict=True):
        try:
            if isinstance(answer, CommandError):
                raise answer
            remote.check_all({host: answer}, probe.versions(), controller=controller)
        except CommandError as error:
            lost[host] = str(error).partition(" HINT: ")[0].rstrip(".")
    return tuple(host for host in request.hosts if host.name not in lost), lost


def _own_ports(
    plan: Plan, abroad: list[str], first: int | None
) -> dict[str, list[int]]:
    """Returns ports for the workers of TF_CONFIG on this machine."""
    if plan.strategy != "multiworker":
        if first is not None:
            raise CommandError(
                f"--port is for multiworker, and the strategy is {plan.strategy}.",
                hint="--strategy multiworker, or leave --port out",
            )
        return {}
    here = [host.name for host in plan.hosts if host.name not in abroad]
    try:
        return {host: free_ports(plan.ranks_of(host), first) for host in here}
    except OSError as error:
        raise _no_port(str(error), first) from None


def _check_others(
    plan: Plan, abroad: list[str], first: int | None, received: Sequence[int]
) -> dict[str, list[int]]:
    """Asks all other hosts before the start; returns their free ports."""
    workers = plan.strategy == "multiworker"
    questions: list[Mapping[str, Any]] = [
        {
            "script": plan.script,
            "ports": plan.ranks_of(host) if workers else 0,
            "first": first,
        }
        for host in abroad
    ]
    answers = remote.ask_all(abroad, questions, received)
    found = dict(zip(abroad, answers, strict=True))
    controller = plan.controller if len(plan.hosts) > 1 else None
    for host in plan.hosts:
        if host.name not in found and controller:
            found[host.name] = probe.facts(list(plan.script))
    remote.check_all(found, probe.versions(), controller=controller)
    for facts in found.values():
        if "error" in facts:
            raise _no_port(facts["error"], first)
    return {host: found[host]["ports"] for host in abroad}


def _no_port(problem: str, first: int | None) -> CommandError:
    hint = "leave --port out, or give another" if first else "end what uses them"
    return CommandError(f"{problem[:1].upper()}{problem[1:]}.", hint=hint)
