"""What `--dry-run` prints: the plan, in words and exact commands."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from tfdist.launch.run.plan import Plan


def describe(plan: Plan, environ: Mapping[str, str]) -> str:
    """Returns the plan as text.

    Args:
        plan: What would be started.
        environ: Today's environment variables.
    """
    return "\n".join(_lines(plan, environ))


def _lines(plan: Plan, environ: Mapping[str, str]) -> Iterator[str]:
    yield f"strategy: {plan.strategy} ({plan.reason})"
    if plan.controller:
        yield f"controller: {plan.controller}"
    yield f"replicas: {plan.replicas}, in {_counted(plan.size, 'process')}"
    for number, rank in enumerate(plan.ranks):
        place = f"{rank.host}, local rank {rank.local_rank}"
        yield f"rank {number}: {place}, {rank.devices}"
    yield f"script: {shlex.join(plan.script)}"
    if plan.command:
        yield f"command: {shlex.join(plan.command)}"
    changes = [*_changes(plan.environment, environ)]
    changes += [f"without {name}" for name in plan.removed]
    yield f"environment: {', '.join(changes) or 'as it is'}"
    for number, rank in enumerate(plan.ranks):
        for name, value in rank.environment.items():
            yield f"rank {number}: {name}={value}"
    if any(":0" in rank.environment.get("TF_CONFIG", "") for rank in plan.ranks):
        yield "(port 0: a free one, which its host will be asked for)"
    for name, value in _flat(plan.settings):
        yield f"setting: {name} = {value}"


def _changes(added: Mapping[str, str], environ: Mapping[str, str]) -> Iterator[str]:
    for name, value in added.items():
        if environ.get(name) != value:
            yield f"{name}={shlex.quote(value)}"


def _flat(settings: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _counted(number: int, noun: str) -> str:
    return f"1 {noun}" if number == 1 else f"{number} {noun}es"
