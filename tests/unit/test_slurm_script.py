"""The batch script passes on what it was given; stand-ins take the place of Slurm."""

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "horovodrun_configs" / "slurm.sbatch"
STAND_IN = """#!/bin/bash
printf '%s\\n' "$(basename "$0")" "$@" "threads=$OMP_NUM_THREADS"
exit 7
"""


def run(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess:
    """Runs the script with an srun and an mpirun that only print what they get."""
    for name in ("srun", "mpirun"):
        program = folder / name
        program.write_text(STAND_IN)
        program.chmod(0o755)
    environment = {"PATH": f"{folder}:/usr/bin:/bin", "SLURM_NTASKS": "8", **variables}
    return subprocess.run(
        ["bash", SCRIPT, *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
    )


def options() -> dict[str, str]:
    """Returns what sbatch reads: `#SBATCH --name=value` before the first command."""
    lines = SCRIPT.read_text().partition("set -euo")[0].splitlines()
    words = [line.split()[1] for line in lines if line.startswith("#SBATCH ")]
    return dict(word.removeprefix("--").split("=", 1) for word in words)


def test_bash_accepts_it():
    subprocess.run(["bash", "-n", SCRIPT], check=True, timeout=30)


def test_sbatch_reads_its_options():
    assert options().keys() >= {"nodes", "ntasks-per-node", "cpus-per-task", "time"}
    # SIGTERM goes to the ranks; "B:" would send it to this shell alone.
    assert options()["signal"].startswith("TERM@")
    # For mpirun, which this shell becomes, and which passes on SIGUSR1 alone.
    lines = SCRIPT.read_text().splitlines()
    (example,) = (line for line in lines if "=mpirun --" in line)
    assert "--signal=B:USR1@" in example


def test_srun_starts_the_script(tmp_path):
    done = run(tmp_path, "train.py", "--name", "two words", SLURM_CPUS_PER_TASK="4")
    assert done.stdout.splitlines() == [
        *("srun", "--mpi=pmix", "--cpus-per-task=4", "--kill-on-bad-exit=1"),
        *("--label", "python", "train.py", "--name", "two words", "threads=4"),
    ]
    assert done.returncode == 7, "the job's exit code is the ranks'"


def test_mpirun_starts_every_task(tmp_path):
    done = run(tmp_path, "train.py", TFDIST_STARTER="mpirun")
    words = done.stdout.splitlines()
    assert words[:3] == ["mpirun", "-np", "8"]
    assert words[-3:] == ["python", "train.py", "threads=1"]
    assert done.returncode == 7


@pytest.mark.parametrize(
    ("words", "variables"), [((), {}), (("train.py",), {"TFDIST_STARTER": "ssh"})]
)
def test_what_cannot_start_says_why(tmp_path, words, variables):
    done = run(tmp_path, *words, **variables)
    assert (done.returncode, done.stdout) == (2, "")
    assert "HINT: " in done.stderr
