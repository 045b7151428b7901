"""How ranks that share nothing yet but a launcher find the chief's port and token.

The strategies broadcast theirs with their own collectives, but a test may be about
to start those. So the chief leaves a file that only its user can read: in the
temporary folder if all ranks are on one host, else in the project's, which has to
be the same on all hosts then.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from tfdist.coordination.launch import Launch
from tfdist.coordination.link import connect
from tfdist.errors import TfdistError, explain

# What all processes of one job have in common, on all hosts, and other jobs have not.
# So not PMIX_SERVER_URI2, of each host's daemon, nor HYDI_CONTROL_FD, of each process.
_JOB = (
    "HOROVOD_GLOO_RENDEZVOUS_ADDR",
    "HOROVOD_GLOO_RENDEZVOUS_PORT",
    "OMPI_MCA_ess_base_jobid",
    "OMPI_MCA_orte_hnp_uri",
    "PMIX_NAMESPACE",
    "SLURM_JOB_ID",
    "SLURM_STEP_ID",
    "MPIEXEC_JOBID",
)
_PAUSE = 0.1  # seconds between two looks at the file
_ATTEMPT = 2.0  # seconds for what the file says to answer


def offer_path(launch: Launch, environ: Mapping[str, str], project: Path) -> Path:
    """Returns the file of this job; the same on all of its ranks.

    Args:
        launch: This rank's place in the job.
        environ: The environment variables.
        project: The folder of the tests.
    """
    marks = {name: environ[name] for name in _JOB if name in environ}
    if launch.launcher == "TF_CONFIG":
        marks = {"cluster": json.dumps(json.loads(environ["TF_CONFIG"])["cluster"])}
    text = json.dumps([launch.launcher, launch.size, str(project), marks])
    name = hashlib.sha256(text.encode()).hexdigest()[:24]
    one_host = launch.local_size == launch.size
    folder = Path(tempfile.gettempdir()) if one_host else project
    return folder / f".tfdist-tests-{os.getuid()}" / f"{name}.json"


def publish(path: Path, offer: Mapping[str, object]) -> None:
    """Leaves the offer where the other ranks look; only this user can read it.

    Raises:
        TfdistError: The folder belongs to somebody else.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.parent.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise TfdistError(
            explain(
                "The folder in which ranks meet is not this user's alone",
                received=f"{path.parent}",
                expected="a folder of this user, with mode 0700",
                hint="Set TMPDIR to a folder of your own.",
            )
        )
    draft = path.with_suffix(f".{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(offer, file)
    draft.rename(path)


def find(path: Path, rank: int, timeout: float) -> socket.socket:
    """Returns a connection to the chief that proved to be of the same job.

    Args:
        path: See `offer_path`.
        rank: This process's rank.
        timeout: Seconds after which to give up.

    Raises:
        TfdistError: No chief answered.
    """
    deadline = time.monotonic() + timeout
    reason = "no such file"
    while time.monotonic() < deadline:
        try:
            # A job that was killed leaves a file that leads nowhere: look again.
            offer = json.loads(path.read_text())
            token = bytes.fromhex(offer["token"])
            left = min(_ATTEMPT, deadline - time.monotonic())
            return connect(offer["addresses"], offer["port"], token, rank, left)
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TfdistError) as error:
            reason = str(error).partition("\n")[0]
        time.sleep(_PAUSE)
    raise TfdistError(
        explain(
            f"Rank {rank} does not find rank 0",
            received=f"{path}: {reason}",
            expected="a file that rank 0 writes when its pytest starts",
            hint="Start pytest on all ranks with the same arguments; on several "
            "hosts, from a folder that all of them share.",
        )
    )
