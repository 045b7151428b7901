"""What "auto" means: from the launcher's environment to a strategy's name."""

from __future__ import annotations

from collections.abc import Mapping

from tfdist.coordination.launch import Launch, read_launch
from tfdist.errors import TfdistError, explain


def detect(environ: Mapping[str, str], gpus: int) -> str:
    """Chooses the strategy that the launcher's environment asks for.

    Several processes under horovodrun, mpirun, mpiexec or srun mean Horovod;
    several workers in TF_CONFIG mean multi-worker. One process, however it was
    started, takes all its GPUs: mirrored if there are several, else default.

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
    if launch is not None and launch.size > 1:
        return "multiworker" if launch.launcher == "TF_CONFIG" else "horovod"
    return "mirrored" if gpus > 1 else "default"


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
