"""The files in horovodrun_configs/ mean to Horovod what they say."""

import sys
from pathlib import Path

import pytest
import yaml

from tfdist.launch.horovodrun_config import ignored_keys

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


@each_file
def test_horovod_reads_every_key(file):
    assert ignored_keys(yaml.safe_load(file.read_text())) == []


def test_a_key_that_horovod_would_ignore_is_found():
    config = {"params": {"cycle_time": 1, "cycle_time_ms": 1}, "hosts": "a:1"}
    assert ignored_keys(config) == ["hosts", "params.cycle_time"]


@each_file
def test_horovodrun_parses_it(file, monkeypatch):
    arguments = parsed_arguments(monkeypatch, "-np", "2", "--config-file", str(file))
    mpi = file.stem == "cpu-mpi"
    assert (arguments.use_gloo, arguments.use_mpi) == (not mpi, mpi)
    assert arguments.no_stall_check is False
    assert arguments.log_with_timestamp is True


def test_flags_win_over_the_file(monkeypatch):
    file = FOLDER / "slow-network.yaml"
    flags = ("--fusion-threshold-mb", "3", "--mpi")
    for order in (
        ("--config-file", str(file), *flags),
        (*flags, "--config-file", str(file)),
    ):
        arguments = parsed_arguments(monkeypatch, "-np", "2", *order)
        assert arguments.fusion_threshold_mb == 3
        assert (arguments.use_gloo, arguments.use_mpi) == (False, True)


def test_horovodrun_refuses_a_wrong_value(tmp_path, monkeypatch):
    file = tmp_path / "wrong.yaml"
    file.write_text("params:\n  cycle_time_ms: -1\n")
    with pytest.raises(ValueError, match="cycle_time_ms=-1 must be >= 0"):
        parsed_arguments(monkeypatch, "-np", "2", "--config-file", str(file))
