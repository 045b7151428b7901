"""From a launcher's environment to a strategy: the whole table."""

from __future__ import annotations

import json

import pytest

from tfdist.coordination.launch import Launch, read_launch
from tfdist.coordination.tf_config import read_tf_config
from tfdist.errors import TfdistError
from tfdist.strategies.environment import confirm, detect


def horovodrun(rank=0, size=2, local_rank=0, local_size=2):
    return {
        "HOROVOD_RANK": str(rank),
        "HOROVOD_SIZE": str(size),
        "HOROVOD_LOCAL_RANK": str(local_rank),
        "HOROVOD_LOCAL_SIZE": str(local_size),
    }


def mpirun(rank=0, size=2):
    return {
        "OMPI_COMM_WORLD_RANK": str(rank),
        "OMPI_COMM_WORLD_SIZE": str(size),
        "OMPI_COMM_WORLD_LOCAL_RANK": str(rank),
        "OMPI_COMM_WORLD_LOCAL_SIZE": str(size),
    }


def mpiexec(rank=0, size=2):
    return {"PMI_RANK": str(rank), "PMI_SIZE": str(size), "MPI_LOCALRANKID": str(rank)}


def sbatch(ntasks=2):
    return {
        "SLURM_JOB_ID": "7",
        "SLURM_NTASKS": str(ntasks),
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": "0",
    }


def srun(rank=0, size=2, node=0, layout="2"):
    return sbatch(size) | {
        "SLURM_STEP_ID": "0",
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank),
        "SLURM_NODEID": str(node),
        "SLURM_STEP_NUM_TASKS": str(size),
        "SLURM_STEP_TASKS_PER_NODE": layout,
    }


def tf_config(workers=2, index: object = 0, kind="worker", **more):
    cluster = {"worker": [f"host{number}:2222" for number in range(workers)]} | more
    task = {"type": kind, "index": index}
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})}


@pytest.mark.parametrize(
    ("environ", "gpus", "strategy"),
    [
        ({}, 0, "default"),
        ({}, 1, "default"),
        ({}, 2, "mirrored"),
        (horovodrun(), 0, "horovod"),
        (horovodrun(), 8, "horovod"),
        (mpirun(), 0, "horovod"),
        (mpiexec(), 0, "horovod"),
        (srun(), 0, "horovod"),
        (tf_config(), 0, "multiworker"),
        (tf_config(), 8, "multiworker"),
        # one process, however it was started
        (horovodrun(size=1, local_size=1), 0, "default"),
        (mpirun(size=1), 0, "default"),
        (mpiexec(size=1), 0, "default"),
        (srun(size=1, layout="1"), 0, "default"),
        (srun(size=1, layout="1"), 4, "mirrored"),
        (tf_config(workers=1), 0, "default"),
        # shells of Slurm, not steps
        (sbatch(ntasks=8), 0, "default"),
        (sbatch(ntasks=8) | {"SLURM_STEP_ID": "4294967291"}, 0, "default"),  # batch
        (sbatch(ntasks=8) | {"SLURM_STEP_ID": "4294967290"}, 0, "default"),  # salloc
        # tuning variables, and names that only look alike
        ({"HOROVOD_FUSION_THRESHOLD": "0", "HOROVOD_CYCLE_TIME": "1"}, 0, "default"),
        ({"HOROVOD_ELASTIC_TIMEOUT": "600", "HOROVOD_ELASTIC": "0"}, 0, "default"),
        ({"OMPI_MCA_btl": "tcp,self", "OMPI_ALLOW_RUN_AS_ROOT": "1"}, 0, "default"),
        ({"PMIX_RANK": "1", "PMI_FD": "5"}, 0, "default"),
        ({"TF_CONFIG": ""}, 0, "default"),
        ({"TF_CPP_MIN_LOG_LEVEL": "2", "RANK": "1", "WORLD_SIZE": "2"}, 0, "default"),
        # nested launchers that do not contradict each other
        (sbatch() | horovodrun(), 0, "horovod"),
        (sbatch() | mpirun(), 0, "horovod"),
        (srun(size=1, layout="1") | mpirun(rank=3, size=4), 0, "horovod"),  # daemons
        (srun(size=2) | mpirun(rank=3, size=4), 0, "horovod"),
        (mpirun() | horovodrun(), 0, "horovod"),
        (mpirun(size=1) | horovodrun(rank=1), 0, "horovod"),
        (srun() | mpiexec(), 0, "horovod"),  # srun --mpi=pmi2
        (srun() | tf_config(), 0, "multiworker"),  # srun as a process starter
        (tf_config(workers=1) | mpirun(), 0, "horovod"),
        (tf_config() | mpirun(size=1), 0, "multiworker"),
    ],
)
def test_the_table(environ, gpus, strategy):
    assert detect(environ, gpus) == strategy


@pytest.mark.parametrize(
    ("environ", "problem"),
    [
        ({"HOROVOD_RANK": "0"}, "HOROVOD_RANK=0 without HOROVOD_SIZE"),
        ({"HOROVOD_SIZE": "2"}, "HOROVOD_SIZE=2 without HOROVOD_RANK"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "without OMPI_COMM_WORLD_RANK"),
        ({"PMI_RANK": "0"}, "without PMI_SIZE"),
        ({"SLURM_STEP_ID": "0", "SLURM_NTASKS": "2"}, "without SLURM_PROCID"),
        ({"SLURM_STEP_ID": "x"} | sbatch(), "SLURM_STEP_ID='x'"),
        (horovodrun(rank=2, size=2), "HOROVOD_RANK='2'"),
        (horovodrun(rank=-1), "HOROVOD_RANK='-1'"),
        (mpirun(rank=5, size=2), "OMPI_COMM_WORLD_RANK='5'"),
        (horovodrun(size=0), "HOROVOD_SIZE='0'"),
        (horovodrun() | {"HOROVOD_SIZE": "two"}, "HOROVOD_SIZE='two'"),
        (horovodrun(local_rank=2), "HOROVOD_LOCAL_RANK='2'"),
        (horovodrun() | {"HOROVOD_ELASTIC": "1"}, "CVE-2024-10190"),
        ({"HOROVOD_ELASTIC": "1"}, "CVE-2024-10190"),
        (tf_config() | mpirun(), "TF_CONFIG (rank 0 of 2) and mpirun (rank 0 of 2)"),
        (tf_config() | horovodrun(), "TF_CONFIG (rank 0 of 2) and horovodrun"),
        (tf_config(workers=3) | srun(size=2), "TF_CONFIG (rank 0 of 3) and srun"),
        (mpirun(rank=1) | horovodrun(), "horovodrun (rank 0 of 2) and mpirun"),
        (mpirun(size=4) | horovodrun(), "mpirun (rank 0 of 4)"),
    ],
)
def test_contradictions_are_errors_with_a_hint(environ, problem):
    with pytest.raises(ValueError, match="Received: ") as caught:
        detect(environ, 0)
    assert problem in str(caught.value)
    assert "Expected: " in str(caught.value)
    assert "\nHINT: " in str(caught.value)


@pytest.mark.parametrize(
    ("environ", "launch"),
    [
        (horovodrun(3, 4, 1, 2), Launch("horovodrun", 3, 4, 1, 2)),
        (mpirun(1, 2), Launch("mpirun", 1, 2, 1, 2)),
        (mpiexec(1, 2), Launch("mpiexec", 1, 2, 1, 2)),
        (srun(1, 2), Launch("srun", 1, 2, 1, 2)),
        (srun(1, 7, node=2, layout="2(x3),1"), Launch("srun", 1, 7, 1, 2)),
        (srun(0, 7, node=3, layout="2(x3),1"), Launch("srun", 0, 7, 0, 1)),
        (srun(1, 7, layout="unheard of"), Launch("srun", 1, 7, 1, 2)),
        (tf_config(3, 2), Launch("TF_CONFIG", 2, 3, 0, 1)),
        ({}, None),
    ],
)
def test_the_place_in_the_job(environ, launch):
    assert read_launch(environ) == launch


def test_the_chief_comes_before_the_workers():
    chief = {"chief": ["main:1"]}
    assert read_tf_config(tf_config(2, 0, "chief", **chief)["TF_CONFIG"]).rank == 0
    worker = read_tf_config(tf_config(2, 1, **chief)["TF_CONFIG"])
    assert worker.addresses == ("main:1", "host0:2222", "host1:2222")
    assert worker.rank == 2


def test_workers_of_one_host_are_numbered():
    config = read_tf_config(
        '{"cluster": {"worker": ["a:1", "b:1", "a:2"]},'
        ' "task": {"type": "worker", "index": "2"}}'  # TensorFlow takes text, too
    )
    assert (config.local_rank, config.local_size) == (1, 2)


@pytest.mark.parametrize(
    ("text", "received"),
    [
        ("{", "{ (Expecting"),
        ("[]", "[]"),
        ("{}", "cluster=None"),
        ('{"cluster": {}}', "cluster={}"),
        ('{"cluster": {"worker": ["a:1"]}}', "task=None"),
        ('{"cluster": {"worker": "a:1"}, "task": {}}', "worker='a:1'"),
        (tf_config(kind="evaluator")["TF_CONFIG"], "task type 'evaluator'"),
        (tf_config(kind="chief")["TF_CONFIG"], "task type 'chief'"),
        (tf_config(index=2)["TF_CONFIG"], "task index 2"),
        (tf_config(index=-1)["TF_CONFIG"], "task index -1"),
        (tf_config(index=True)["TF_CONFIG"], "task index True"),
        (tf_config(index=None)["TF_CONFIG"], "task index None"),
        (tf_config(index="one")["TF_CONFIG"], "task index 'one'"),
        (tf_config(ps=["p:1"])["TF_CONFIG"], "a job 'ps'"),
        (tf_config(chief=["a:1", "b:1"])["TF_CONFIG"], "2 chiefs"),
        (tf_config(worker=["a:1", "a:1"])["TF_CONFIG"], "['a:1', 'a:1']"),
        (tf_config(worker=["a"])["TF_CONFIG"], "the worker address 'a'"),
        (tf_config(worker=["a:70000"])["TF_CONFIG"], "'a:70000'"),
        (tf_config(worker=[7])["TF_CONFIG"], "address 7"),
        ("[" * 100_000, "["),
    ],
)
def test_a_malformed_tf_config(text, received):
    with pytest.raises(ValueError, match="TF_CONFIG is malformed") as caught:
        detect({"TF_CONFIG": text}, 0)
    assert received in str(caught.value).partition("Expected")[0]
    assert "HINT: Set it as in TF_CONFIG='{" in str(caught.value)


def test_the_hints_example_is_valid():
    with pytest.raises(ValueError) as caught:
        read_tf_config("{")
    example = str(caught.value).split("TF_CONFIG='")[1].split("' or")[0]
    assert detect({"TF_CONFIG": example}, 0) == "multiworker"


def test_processes_that_did_not_find_each_other_are_an_error():
    launch = read_launch(srun(1, 2))
    confirm(launch, 1, 2)
    confirm(None, 0, 1)
    with pytest.raises(TfdistError, match="rank 0 of 1 from Horovod"):
        confirm(launch, 0, 1)
