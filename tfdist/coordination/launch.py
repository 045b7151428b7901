"""What the launcher's environment says about this process: pure reading.

Only the exact names that a launcher sets for every process it starts are read.
Tuning variables (HOROVOD_FUSION_THRESHOLD, OMPI_MCA_...) decide nothing, and
neither does PMIX_RANK: PMIx names no size, and whoever sets it (srun, mpirun)
sets one of the names below as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tfdist.coordination.tf_config import read_tf_config
from tfdist.errors import explain

# Slurm numbers its own shells (sbatch's script, salloc's shell, the extern step)
# down from here; a step that srun started counts up from 0.
_FIRST_RESERVED_SLURM_STEP = 0xFFFFFFF0


@dataclass(frozen=True)
class Launch:
    """One process's place in the job that a launcher started."""

    launcher: str  # "horovodrun", "mpirun", "mpiexec", "srun" or "TF_CONFIG"
    rank: int  # 0 <= rank < size
    size: int  # processes in the job
    local_rank: int  # rank among the processes of this host
    local_size: int  # processes of this job on this host


@dataclass(frozen=True)
class _Names:
    launcher: str
    rank: str
    size: str
    local_rank: tuple[str, ...]
    local_size: tuple[str, ...]


# The order is the precedence: mpirun and mpiexec use srun themselves to reach
# other nodes, so their processes inherit a step that counts daemons, not ranks.
_LAUNCHERS = (
    _Names(
        "horovodrun",
        "HOROVOD_RANK",
        "HOROVOD_SIZE",
        ("HOROVOD_LOCAL_RANK",),
        ("HOROVOD_LOCAL_SIZE",),
    ),
    _Names(
        "mpirun",
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        ("OMPI_COMM_WORLD_LOCAL_RANK",),
        ("OMPI_COMM_WORLD_LOCAL_SIZE",),
    ),
    _Names(
        "mpiexec",
        "PMI_RANK",
        "PMI_SIZE",
        ("MPI_LOCALRANKID", "PMI_LOCAL_RANK", "SLURM_LOCALID"),
        ("MPI_LOCALNRANKS", "PMI_LOCAL_SIZE"),
    ),
)


def read_launch(environ: Mapping[str, str]) -> Launch | None:
    """Reads which launcher started this process, and as which rank.

    Args:
        environ: The environment variables, usually `os.environ`.

    Returns:
        The place in the job, or None where no launcher was used.

    Raises:
        ValueError: A variable is missing or out of range, TF_CONFIG is malformed,
            two launchers contradict each other, or Horovod's elastic mode is on.
    """
    _refuse_elastic(environ)
    started = [
        launch
        for names in _LAUNCHERS
        if (launch := _read_names(environ, names)) is not None
    ]
    # A launcher of one process nested around the real one says nothing.
    several = [launch for launch in started if launch.size > 1]
    for other in several[1:]:
        if (other.rank, other.size) != (several[0].rank, several[0].size):
            raise ValueError(_contradiction(several[0], other))
    ranks = next(iter(several or started), None)
    step = _read_slurm_step(environ)
    workers = _read_workers(environ)
    if workers is not None and workers.size > 1:
        if ranks is not None and ranks.size > 1:
            raise ValueError(_contradiction(workers, ranks))
        # srun also serves as a plain process starter for TF_CONFIG workers.
        if step is not None and ranks is None and step.size not in (1, workers.size):
            raise ValueError(_contradiction(workers, step))
        return workers
    return ranks or step or workers


def _read_names(environ: Mapping[str, str], names: _Names) -> Launch | None:
    given = [name for name in (names.rank, names.size) if name in environ]
    if not given:
        return None
    if len(given) == 1:
        missing = names.size if given == [names.rank] else names.rank
        raise ValueError(
            explain(
                f"The environment of {names.launcher} is incomplete",
                received=f"{given[0]}={environ[given[0]]} without {missing}",
                expected=f"{names.rank} together with {names.size}",
                hint=f"Start the script with {names.launcher}, or `unset {given[0]}`.",
            )
        )
    size = _integer(environ, names.size, 1, None)
    rank = _integer(environ, names.rank, 0, size)
    # Without local names, one process a host is the only safe guess: rank 0 of 1.
    local_size = _first_integer(environ, names.local_size, 1, size + 1, default=1)
    local_rank = _first_integer(environ, names.local_rank, 0, size, default=0)
    return Launch(
        names.launcher, rank, size, local_rank, max(local_size, local_rank + 1)
    )


def _read_slurm_step(environ: Mapping[str, str]) -> Launch | None:
    if "SLURM_STEP_ID" not in environ:
        return None  # sbatch's own shell, or no Slurm at all
    if _integer(environ, "SLURM_STEP_ID", 0, None) >= _FIRST_RESERVED_SLURM_STEP:
        return None
    # SLURM_NTASKS may still be the allocation's; the step's own count is exact.
    sizes = ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")
    size_name = next((name for name in sizes if name in environ), sizes[0])
    names = _Names("srun", "SLURM_PROCID", size_name, ("SLURM_LOCALID",), ())
    step = _read_names(environ, names)
    if step is None:
        return None
    local_size = _tasks_on_this_node(environ, step)
    return Launch("srun", step.rank, step.size, step.local_rank, local_size)


def _tasks_on_this_node(environ: Mapping[str, str], step: Launch) -> int:
    """Reads "2(x3),1": two tasks on each of three nodes, then one on the last."""
    text = environ.get("SLURM_STEP_TASKS_PER_NODE", "")
    counts: list[int] = []
    try:
        for part in text.split(","):
            count, _, repeat = part.strip(")").partition("(x")
            counts += [int(count)] * int(repeat or 1)
        return max(counts[int(environ["SLURM_NODEID"])], step.local_size)
    except (ValueError, KeyError, IndexError):
        return step.local_size  # an unknown layout: only this process is certain


def _read_workers(environ: Mapping[str, str]) -> Launch | None:
    if not environ.get("TF_CONFIG", "").strip():
        return None
    config = read_tf_config(environ["TF_CONFIG"])
    return Launch(
        "TF_CONFIG",
        config.rank,
        len(config.addresses),
        config.local_rank,
        config.local_size,
    )


def _refuse_elastic(environ: Mapping[str, str]) -> None:
    value = environ.get("HOROVOD_ELASTIC", "")
    if value not in ("", "0"):
        raise ValueError(
            explain(
                "Horovod's elastic mode is refused: its rendezvous server executes "
                "what any host on the network sends it (CVE-2024-10190)",
                received=f"HOROVOD_ELASTIC={value}",
                expected="a fixed number of processes",
                hint="Use `horovodrun -np N` without --min-np, --max-np and "
                "--host-discovery-script, or `unset HOROVOD_ELASTIC`.",
            )
        )


def _integer(
    environ: Mapping[str, str], name: str, lowest: int, limit: int | None
) -> int:
    """Returns the variable as an integer with `lowest <= value < limit`."""
    text = environ[name]
    value = int(text) if text.isascii() and text.isdigit() else None
    if value is None or value < lowest or (limit is not None and value >= limit):
        upper = "" if limit is None else f" and below {limit}"
        raise ValueError(
            explain(
                f"The environment variable {name} is out of range",
                received=f"{name}={text!r}",
                expected=f"an integer of at least {lowest}{upper}",
                hint=f"Let the launcher set it, or `unset {name}`.",
            )
        )
    return value


def _first_integer(
    environ: Mapping[str, str],
    names: tuple[str, ...],
    lowest: int,
    limit: int,
    default: int,
) -> int:
    for name in names:
        if name in environ:
            return _integer(environ, name, lowest, limit)
    return default


def _contradiction(one: Launch, other: Launch) -> str:
    def described(launch: Launch) -> str:
        return f"{launch.launcher} (rank {launch.rank} of {launch.size})"

    hint = f"Start the script with {one.launcher} or {other.launcher} alone."
    if one.launcher == "TF_CONFIG":
        hint = f"`unset TF_CONFIG` to use {other.launcher}, or leave that out."
    return explain(
        "Two launchers claim this process",
        received=f"{described(one)} and {described(other)}",
        expected="one of them",
        hint=hint,
    )
