"""The proof believes only two ranks that both summed rightly."""

import pytest

from tfdist.launch import horovod_proof
from tfdist.launch.errors import FAILED, CommandError

BOTH = "".join(f"echo '[{r}]<stdout>:{horovod_proof._proved(r)}'\n" for r in (0, 1))


@pytest.fixture
def prove(monkeypatch, tmp_path):
    """Runs the proof with a shell script in place of horovodrun."""

    def run(script: str) -> str:
        launcher = tmp_path / "horovodrun"
        launcher.write_text(f"#!/bin/sh\n{script}")
        launcher.chmod(0o755)
        monkeypatch.setattr(horovod_proof, "find_program", lambda name: str(launcher))
        horovod_proof.prove("gloo", tmp_path / "log")
        return (tmp_path / "log").read_text()

    return run


def test_two_right_sums_are_a_proof(prove, capsys):
    log = prove(BOTH + "echo $@")
    assert "all-reduce over gloo, 2 processes: ok" in capsys.readouterr().out
    assert "-np 2 --gloo" in log


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (BOTH + "exit 3", "exit code 3"),
        (BOTH.splitlines()[0], "exit code 0"),  # the other rank said nothing
        ("true", "exit code 0"),
        (BOTH + "sleep 300", "did not end"),
    ],
)
def test_anything_else_is_not(prove, monkeypatch, script, message):
    monkeypatch.setattr(horovod_proof, "TIMEOUT_SECONDS", 1.0)
    with pytest.raises(CommandError, match=message) as caught:
        prove(script)
    assert caught.value.exit_code == FAILED


def test_missing_launcher(monkeypatch, tmp_path):
    monkeypatch.setattr(horovod_proof, "find_program", lambda name: None)
    with pytest.raises(CommandError, match="horovodrun was not found"):
        horovod_proof.prove("gloo", tmp_path / "log")
