"""What "auto" means: from the launcher's environment to a strategy's name."""

from __future__ import annotations

from collections.abc import Mapping

from tfdist.coordination.launch import Launch, read_launch
from tfdist.errors import TfdistError, explain

# What `tfdist run` tells the script: the strategy that it started the ranks for, and
# how many devices of this machine "mirrored" shall use.
STRATEGY_VARIABLE = "TFDIST_STRATEGY"
REPLICAS_VARIABLE = "TFDIST_REPLICAS"
NAMES = ("default", "mirrored", "multiworker", "horovod")


def detect(environ: Mapping[str, str], gpus: int) -> str:
    """Chooses the strategy that the launcher's environment asks for.

    `tfdist run` names it. Else several processes under horovodrun, mpirun, mpiexec
    or srun mean Horovod; several workers in TF_CONFIG mean multi-worker. One process,
    however it was started, takes all its GPUs: mirrored if there are several, else
    default.

    Args:
        environ: The environment variables, usually `os.environ`.
        gpus: The number of GPUs that this process sees.

    Returns:
        "horovod", "multiworker", "mirrored" or "default".

    Raises:
        ValueError: The environment is malformed or contradicts itself.

    Example:
        >>> detect({"HOROVOD_RANK": "1", "HOROVOD_SIZE": "2"}, gpus=0)
        'horovod'
        >>> detect({"HOROVOD_FUSION_THRESHOLD": "0"}, gpus=0)
        'default'
    """
    launch = read_launch(environ)
    if asked := started_for(environ):
        return asked
    if launch is not None and launch.size > 1:
        return "multiworker" if launch.launcher == "TF_CONFIG" else "horovod"
    return "mirrored" if gpus > 1 else "default"


def started_for(environ: Mapping[str, str]) -> str | None:
    """Returns the strategy that `tfdist run` started this process for, if it did.

    Raises:
        ValueError: The variable holds no strategy's name.
    """
    asked = environ.get(STRATEGY_VARIABLE)
    if asked is not None and asked not in NAMES:
        raise ValueError(
            explain(
                f"The environment variable {STRATEGY_VARIABLE} names no strategy",
                received=f"{STRATEGY_VARIABLE}={asked!r}",
                expected=", ".join(map(repr, NAMES)),
                hint=f"Let `tfdist run` set it, or `unset {STRATEGY_VARIABLE}`.",
            )
        )
    return asked


def refuse_other(name: str, environ: Mapping[str, str]) -> None:
    """Refuses a strategy that the ranks were not started for.

    Each rank would train alone, and all would overwrite each other's files.

    Args:
        name: The strategy that the script asks for by name.
        environ: The environment variables, usually `os.environ`.

    Raises:
        ValueError: `tfdist run` started several ranks for another strategy.
    """
    asked = started_for(environ)
    launch = read_launch(environ)
    if asked in (None, name) or launch is None or launch.size == 1:
        return
    raise ValueError(
        explain(
            f"The {launch.size} ranks were started for another strategy",
            received=f"tfdist.strategy({name!r}) under `tfdist run --strategy {asked}`",
            expected=f"'auto' or {asked!r}",
            hint=f"tfdist run --strategy {name} ..., or tfdist.strategy('auto').",
        )
    )


def replicas_asked(environ: Mapping[str, str]) -> int | None:
    """Returns how many devices "mirrored" shall use; None leaves it to TensorFlow.

    Raises:
        ValueError: The variable is no positive integer.

    Example:
        >>> replicas_asked({"TFDIST_REPLICAS": "2"})
        2
    """
    text = environ.get(REPLICAS_VARIABLE)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and int(text)):
        raise ValueError(
            explain(
                f"The environment variable {REPLICAS_VARIABLE} is no positive integer",
                received=f"{REPLICAS_VARIABLE}={text!r}",
                expected="the number of devices, such as 2",
                hint=f"`tfdist run -np 2`, or `unset {REPLICAS_VARIABLE}`.",
            )
        )
    return int(text)


def confirm(launch: Launch | None, rank: int, size: int) -> None:
    """Refuses a library whose processes did not find each other.

    Under a launcher of another MPI than Horovod was built with, each process
    believes that it is alone; all would train the same data and overwrite each
    other's files without a word.

    Args:
        launch: What the launcher's environment says, from `read_launch`.
        rank: The rank that the library (Horovod, TensorFlow) reports.
        size: The size that the library reports.

    Raises:
        TfdistError: The library and the launcher disagree.
    """
    if launch is None or (launch.rank, launch.size) == (rank, size):
        return
    raise TfdistError(
        explain(
            f"The processes that {launch.launcher} started did not find each other",
            received=f"rank {rank} of {size} from Horovod",
            expected=f"rank {launch.rank} of {launch.size} from {launch.launcher}",
            hint="Use the launcher of the MPI that Horovod was built with (under "
            "Slurm: mpirun inside sbatch, or `srun --mpi=pmix`), or horovodrun --gloo.",
        )
    )
