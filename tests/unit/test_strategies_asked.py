"""What `tfdist run` tells the script, and what the script's strategies make of it."""

import subprocess
import sys

import pytest

from tfdist.strategies.environment import (
    detect,
    refuse_other,
    replicas_asked,
    started_for,
)

TWO_RANKS = {"HOROVOD_RANK": "0", "HOROVOD_SIZE": "2"}


def test_auto_is_what_run_started():
    assert detect({"TFDIST_STRATEGY": "horovod"}, gpus=0) == "horovod"
    assert detect({"TFDIST_STRATEGY": "mirrored"}, gpus=0) == "mirrored"
    assert detect({}, gpus=0) == "default"


def test_an_unknown_strategy_in_the_environment_is_refused():
    with pytest.raises(ValueError, match="TFDIST_STRATEGY names no strategy"):
        started_for({"TFDIST_STRATEGY": "mauve"})


def test_ranks_of_another_strategy_are_refused():
    asked = TWO_RANKS | {"TFDIST_STRATEGY": "horovod"}
    refuse_other("horovod", asked)
    refuse_other("multiworker", TWO_RANKS)  # not started by tfdist run
    refuse_other("mirrored", {"TFDIST_STRATEGY": "horovod"})  # one process
    with pytest.raises(ValueError, match="tfdist run --strategy multiworker"):
        refuse_other("multiworker", asked)


@pytest.mark.parametrize("text", ["0", "-1", "two", "", "1.5"])
def test_a_wrong_number_of_replicas_is_refused(text):
    with pytest.raises(ValueError, match="no positive integer"):
        replicas_asked({"TFDIST_REPLICAS": text})


def test_the_cpu_is_split_in_time_or_not_at_all():
    code = (
        "import os, tensorflow as tf; from tfdist.strategies import mirrored;"
        "parts = mirrored.asked_devices(3);"
        "assert parts == ['CPU:0', 'CPU:1', 'CPU:2'], parts;"
        "assert len(tf.config.list_logical_devices('CPU')) == 3;"
        "mirrored.asked_devices(3);"  # it is split already
        "mirrored.asked_devices(2)"
    )
    environment = {
        "PATH": "",
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "PYTHONPATH": ":".join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "ValueError: The CPU cannot be split into 2 devices" in done.stderr
    assert "HINT: Call tfdist.strategy() before" in done.stderr
