"""Two processes that sum with the installed Horovod: proof that it works."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tfdist.launch.errors import FAILED, CommandError
from tfdist.launch.processes import (
    TIMED_OUT,
    child_environment,
    find_program,
    run_logged,
    tail,
)

TIMEOUT_SECONDS = 180.0

# Open MPI refuses to run as root, to start more processes than it sees cores, and
# inside containers to copy between processes, unless it is told to.
PROOF_ENVIRONMENT = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_btl_vader_single_copy_mechanism": "none",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


def prove(controller: str, log: Path) -> None:
    """Runs an all-reduce in two processes on this machine, on CPUs.

    Args:
        controller: "gloo" or "mpi".
        log: The file that receives what the processes print.

    Raises:
        CommandError: If a process fails, sums wrongly or is silent for too long.
    """
    launcher = find_program("horovodrun")
    if launcher is None:
        raise CommandError(
            "horovodrun was not found beside this interpreter or on PATH.",
            hint="tfdist horovod install --force",
            exit_code=FAILED,
        )
    started = time.monotonic()
    log.unlink(missing_ok=True)
    exit_code = run_logged(
        [
            *(launcher, "-np", "2", f"--{controller}", "--disable-cache"),
            *(sys.executable, "-m", "tfdist.launch.horovod_proof"),
        ],
        log,
        environment=child_environment(PROOF_ENVIRONMENT),
        timeout=TIMEOUT_SECONDS,
    )
    seconds = time.monotonic() - started
    output = log.read_text(errors="replace")
    if exit_code or not all(_proved(rank) in output for rank in range(2)):
        print(tail(log), file=sys.stderr)
        state = "did not end" if exit_code == TIMED_OUT else f"exit code {exit_code}"
        raise CommandError(
            f"2 processes over {controller} failed to sum: {state} after "
            f"{seconds:.0f} s.",
            hint=f"the whole output is in {log}",
            exit_code=FAILED,
        )
    print(
        f"horovod: all-reduce over {controller}, 2 processes: ok ({seconds:.0f} s)",
        flush=True,
    )


def _proved(rank: int) -> str:
    return f"tfdist: rank {rank} of 2 has the right sum"


def _sum_ranks() -> int:
    """What each of the two processes does; returns its exit code."""
    import horovod.tensorflow as hvd
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    hvd.init()
    # More than one fusion buffer's alignment, and a different value on each rank.
    total = hvd.allreduce(tf.fill([1000], hvd.rank() + 1.0), op=hvd.Sum)
    expected = hvd.size() * (hvd.size() + 1) / 2
    if not bool(tf.reduce_all(total == expected)):
        print(f"rank {hvd.rank()}: expected {expected}, received {total}")
        return 1
    print(_proved(hvd.rank()) if hvd.size() == 2 else f"size {hvd.size()}")
    return 0


if __name__ == "__main__":
    sys.exit(_sum_ranks())
