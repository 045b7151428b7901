"""Facts: gathered without waiting for ever, read back without being evaluated."""

import dataclasses
import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.unit.test_launch_doctor import HEALTHY
from tfdist.launch import main
from tfdist.launch.arguments import Host
from tfdist.launch.doctor import command, facts, hosts
from tfdist.launch.doctor.facts import MARK, Facts, to_json
from tfdist.launch.doctor.hosts import ask, read_answer
from tfdist.launch.doctor.reading import from_json


@pytest.fixture
def path(monkeypatch, tmp_path) -> Path:
    """A folder for stand-ins of programs, first on PATH."""
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    return programs


def add_program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_json_returns_the_same_facts():
    assert from_json(to_json(HEALTHY)) == HEALTHY
    assert from_json(to_json(Facts())) == Facts()


def test_a_newer_host_may_say_more():
    newer = json.loads(to_json(HEALTHY)) | {"colour": "red"}
    assert from_json(json.dumps(newer)) == HEALTHY
    assert from_json('{"keras": "3.8.0"}') == Facts(keras="3.8.0")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "__import__('os')",
        '{"cores": "8"}',
        '{"tensorflow": {"a": 1}}',
        '{"gpus": [["nested"]]}',
        '{"interfaces": [{"name": 3}]}',
        '{"keras": null}',
        '{"cores": true}',
    ],
)
def test_what_is_no_fact_is_refused(text):
    with pytest.raises(ValueError):
        from_json(text)


def test_programs_that_hang_are_left(path, monkeypatch):
    add_program(path, "nvidia-smi", "exec sleep 60")
    monkeypatch.setattr(facts, "PROGRAM_SECONDS", 0.3)
    began = time.monotonic()
    assert facts._first_line(["nvidia-smi"]) == ""
    assert time.monotonic() - began < 20
    add_program(path, "nvidia-smi", "echo; echo 'A100'")
    monkeypatch.setattr(facts, "PROGRAM_SECONDS", 20.0)
    assert facts._first_line(["nvidia-smi"]) == "A100"
    add_program(path, "nvidia-smi", "echo 'broken'; exit 3")
    assert facts._first_line(["nvidia-smi"]) == ""
    assert facts._first_line(["no-such-program"]) == ""


def probe(monkeypatch, code: str) -> dict:
    monkeypatch.setattr(facts, "PROBE", code)
    return facts._probe(["tensorflow", "horovod"])


FOUND = 'print(\'{"stage": "tensorflow", "found": ["A100"]}\', flush=True)\n'


def test_an_import_that_crashes_is_a_finding(monkeypatch):
    code = FOUND + "import os; os.kill(os.getpid(), 11)"
    found = probe(monkeypatch, code)
    assert found["tensorflow"] == (["A100"], "")
    assert found["horovod"] == ([], "the process was ended by signal 11")


def test_an_import_that_hangs_is_a_finding(monkeypatch):
    monkeypatch.setattr(facts, "IMPORT_SECONDS", 1.0)
    found = probe(monkeypatch, FOUND + "import time; time.sleep(60)")
    assert found["tensorflow"] == (["A100"], "")
    assert "more than 1 s" in found["horovod"][1]


def test_the_probe_names_a_missing_library():
    code = "import sys; sys.modules['tensorflow'] = None\n" + facts.PROBE
    done = facts._run([sys.executable, "-c", code, "tensorflow"], 60.0, {})
    found = facts.read_probe(["tensorflow"], done[1], "")
    assert found["tensorflow"][0] == []
    assert found["tensorflow"][1].startswith("ModuleNotFoundError: ")


@pytest.mark.parametrize(
    ("plan", "instructions"),
    [('{"instructions": ["avx", "f16c"]}', ["avx", "f16c"]), ("{}", []), ("[", [])],
)
def test_the_instructions_of_a_build(monkeypatch, tmp_path, plan, instructions):
    (tmp_path / "plan.json").write_text(plan)
    record = json.dumps({"url": f"file://{tmp_path}/horovod-0.28.1.whl"})
    built = SimpleNamespace(read_text=lambda name: record)
    monkeypatch.setattr(facts.metadata, "distribution", lambda name: built)
    assert facts._horovod_instructions() == instructions
    (tmp_path / "plan.json").unlink()  # the cache was removed
    assert facts._horovod_instructions() == []


def test_a_name_that_is_never_resolved():
    assert facts._in_time(lambda: time.sleep(5) or ["x"], 0.1) is None
    assert facts._in_time(lambda: ["x"], 5.0) == ["x"]


def test_an_empty_machine_is_described(path, monkeypatch):
    """No TensorFlow, Horovod, MPI or driver: facts, not an exception."""
    monkeypatch.setattr(facts, "_version", lambda name: "")
    monkeypatch.setattr(facts, "_lines", lambda words: [])
    found = facts.gather({"HOROVOD_ELASTIC": "1", "HOROVOD_SECRET_KEY": "s"})
    assert found.tensorflow == {} and found.mpi == "" and found.gpus == []
    assert found.variables == {"HOROVOD_ELASTIC": "1"}  # no secrets
    assert found.cores >= 1 and "lo" in {each.name for each in found.interfaces}
    assert found.clock_before <= found.clock_after


def test_the_module_needs_only_python():
    source = Path(facts.__file__).read_text()
    assert "import tfdist" not in source and "from tfdist" not in source


def test_doctor_survives_a_python_without_anything(tmp_path):
    """A real run where only tfdist and its two small requirements are found."""
    import packaging
    import psutil

    import tfdist

    for module in (packaging, psutil, tfdist):
        folder = Path(module.__file__).parent
        (tmp_path / folder.name).symlink_to(folder)
    done = subprocess.run(
        # -S leaves out site-packages, and with it TensorFlow, Keras and Horovod.
        [sys.executable, "-S", "-c", "import tfdist; tfdist.strategy()"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": "/nowhere"},
    )
    assert "pip install 'tfdist[cpu]'" in done.stderr  # first use says what is missing
    done = subprocess.run(
        [sys.executable, "-S", "-m", "tfdist.launch", "doctor", "-H", "a,localhost"],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": "/nowhere"},
    )
    assert done.returncode == 3, done.stderr
    assert "FAILED tensorflow  TensorFlow is not installed" in done.stdout
    assert "a: this host has no ssh" in done.stdout
    assert "Traceback" not in done.stderr


FAKE_SSH = """
for word; do host=$command; command=$word; done
case $host in
  silent) exec sleep 60;;
  closed) echo 'ssh: connect to host closed port 22: Connection refused' >&2
          exit 255;;
  bare)   exit 127;;
  rude)   echo 'tfdist-facts: {"cores": "many"}';;
  *)      echo 'Welcome!'; cat >/dev/null
          printf 'tfdist-facts: {"host": "%s", "cores": 4}\\n' $host;;
esac
"""


def test_hosts_answer_or_say_why_not(path, monkeypatch):
    add_program(path, "ssh", FAKE_SSH)
    monkeypatch.setattr(hosts, "ANSWER_SECONDS", 3.0)
    names = ("well", "closed", "silent", "bare", "rude", "localhost")
    began = time.monotonic()
    answers = dict(zip(names, ask([Host(n) for n in names], HEALTHY), strict=True))
    assert time.monotonic() - began < 30  # all at once
    assert [answer.host.name for answer in answers.values()] == list(names)
    assert answers["well"].facts == Facts(host="well", cores=4)
    assert answers["well"].asked <= answers["well"].answered
    assert answers["localhost"].facts == HEALTHY  # asked without ssh
    assert answers["closed"].error.startswith("ssh: connect to host closed")
    assert answers["silent"].error == "no answer within 3 s"
    assert answers["bare"].error == f"there is no {sys.executable}"
    assert "cannot be read" in answers["rude"].error


def test_without_ssh_there_are_no_answers(monkeypatch):
    monkeypatch.setattr(hosts, "find_program", lambda name: None)
    (answer,) = ask([Host("far")], HEALTHY)
    assert answer.error == "this host has no ssh"


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", socket.gethostname()])
def test_this_host_needs_no_ssh(monkeypatch, name):
    monkeypatch.setattr(hosts, "find_program", lambda name: None)
    (answer,) = ask([Host(name)], HEALTHY)
    assert answer.facts == HEALTHY


def test_ssh_never_asks_and_passes_the_path_on(path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/a checkout")
    add_program(path, "ssh", 'echo "$@" >&2; exit 255')
    (answer,) = ask([Host("far")], HEALTHY)
    assert "BatchMode=yes" in answer.error and "ConnectTimeout=10" in answer.error
    line = f"env 'PYTHONPATH=/a checkout' {sys.executable} - --json"
    assert f"-- far {line}" in answer.error


def test_the_answer_is_found_after_a_greeting():
    output = f"Welcome to b!\n{MARK}{to_json(HEALTHY)}\nBye\n"
    answer = read_answer(Host("b"), 0, output, asked=1.0, answered=2.0)
    assert answer.facts == HEALTHY and answer.error == ""


@pytest.fixture
def gathered(monkeypatch):
    """Replaces what takes seconds by made-up facts."""

    def use(**changes) -> None:
        made_up = dataclasses.replace(HEALTHY, **changes)
        monkeypatch.setattr(command, "gather", lambda: made_up)

    return use


def test_exit_codes(gathered, capsys):
    gathered()
    assert main.main(["doctor"]) == 0
    assert "FAILED" not in capsys.readouterr().out
    gathered(keras="2.0")
    assert main.main(["doctor"]) == 3
    assert "HINT: pip install 'keras>=3.8'" in capsys.readouterr().out


def test_json_is_all_of_standard_output(gathered, capsys):
    gathered(keras="2.0")
    assert main.main(["doctor", "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["healthy"] is False


def test_a_crash_is_no_verdict(monkeypatch):
    def crash():
        raise RuntimeError("a bug")

    monkeypatch.setattr(command, "gather", crash)
    with pytest.raises(RuntimeError):
        main.main(["doctor"])


@pytest.mark.parametrize(
    "hosts", ["", "a:0", "a:two", "a,a", "-oProxyCommand=x", "a b"]
)
def test_bad_hosts_are_one_line(hosts, capsys):
    assert main.main(["doctor", f"-H{hosts}" if hosts else "--hosts="]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert "HINT: " in captured.err
