"""Who am I: from an installed member, else from the launcher's environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tfdist import cluster
from tfdist.errors import TfdistError

LAUNCHER_NAMES = ("HOROVOD_", "OMPI_COMM_", "PMI_", "SLURM_", "TF_CONFIG", "MPI_LOCAL")


@pytest.fixture(autouse=True)
def bare_process(monkeypatch):
    for name in list(os.environ):
        if name.startswith(LAUNCHER_NAMES):
            monkeypatch.delenv(name)
    cluster.install(None)
    yield
    cluster.install(None)


def answers():
    return cluster.rank(), cluster.size(), cluster.local_rank(), cluster.is_chief()


def test_one_process():
    assert answers() == (0, 1, 0, True)
    cluster.barrier("nobody to wait for", timeout=0.0)


def test_before_a_strategy_the_launcher_answers(monkeypatch):
    monkeypatch.setenv("HOROVOD_RANK", "3")
    monkeypatch.setenv("HOROVOD_SIZE", "4")
    monkeypatch.setenv("HOROVOD_LOCAL_RANK", "1")
    monkeypatch.setenv("HOROVOD_LOCAL_SIZE", "2")
    assert answers() == (3, 4, 1, False)


def test_before_a_strategy_a_barrier_of_several_is_an_error(monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with pytest.raises(TfdistError, match="rank 0 of 2 without a strategy") as caught:
        cluster.barrier()
    assert "HINT: Call tfdist.strategy('auto')" in str(caught.value)


def test_a_launcher_of_one_process_is_one_process(monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "1")
    assert answers() == (0, 1, 0, True)
    cluster.barrier(timeout=0.0)


def test_an_installed_member_wins_over_the_environment(monkeypatch):
    monkeypatch.setenv("HOROVOD_RANK", "3")
    monkeypatch.setenv("HOROVOD_SIZE", "4")
    cluster.install(cluster.Member())  # MirroredStrategy: one process drives all
    assert answers() == (0, 1, 0, True)


def test_the_barrier_is_the_members_own():
    calls = []
    member = cluster.Member(
        1, 2, 1, lambda name, timeout: calls.append((name, timeout))
    )
    cluster.install(member)
    cluster.barrier("saved", timeout=5.0)
    assert calls == [("saved", 5.0)]
    assert answers() == (1, 2, 1, False)


def test_importing_it_imports_no_tensorflow():
    code = (
        "import sys, tfdist.cluster, tfdist.seeding, tfdist.coordination.ledger;"
        "print(sorted({'tensorflow', 'keras', 'horovod'} & set(sys.modules)))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(cluster.__file__).parents[1],
    )
    assert ran.stdout == "[]\n", ran.stderr
