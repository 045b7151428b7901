"""The programs that the tests start on hosts, and their environment."""

import importlib.util
import sys

from tests.hosts.bed import ROOT
from tfdist.launch.horovod_proof import PROOF_ENVIRONMENT
from tfdist.launch.processes import child_environment, find_program

HAS_HOROVOD = importlib.util.find_spec("horovod") is not None
HAS_MPI = find_program("mpirun") is not None

# One thread a rank: all hosts share this machine's few cores.
ENVIRONMENT = child_environment(
    PROOF_ENVIRONMENT
    | {
        "PYTHONPATH": str(ROOT),
        "TF_NUM_INTRAOP_THREADS": "1",
        "TF_NUM_INTEROP_THREADS": "2",
        "OMP_NUM_THREADS": "1",
        "OMPI_MCA_mpi_yield_when_idle": "1",
        "PYTHONUNBUFFERED": "1",
    }
)
TRAINING = (sys.executable, "tests/integration/train_small.py")
HOROVODRUN = ("horovodrun", "--disable-cache", "-np", "2", "-H", "h1:1,h2:1")
# pip's Open MPI finds its own files by variables that its mpirun sets; on the other
# hosts nobody does.
EXPORTED = ("-x", "OPAL_PREFIX", "-x", "PMIX_INSTALL_PREFIX")


def digests(output: str, ranks: int = 2) -> set[str]:
    """Return the digests of the weights that the ranks printed; all must have."""
    found = {
        rank: output.partition(f"rank {rank} of {ranks}: ")[2][:16]
        for rank in range(ranks)
    }
    assert all(found.values()), output
    return set(found.values())
