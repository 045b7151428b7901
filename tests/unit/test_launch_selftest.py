"""The self-test's judgement, its choice of ways, and its bad input."""

import importlib.util
import tempfile
from pathlib import Path

import numpy as np
import pytest

from tfdist.launch import main
from tfdist.launch.selftest import checks, runner, ways
from tfdist.launch.selftest.judge import Outcome, judge, one_line, read_outcome
from tfdist.launch.selftest.registry import CHECKS, Check

COMPARED = Check("fit", "weights of one process")
ALONE = Check("collectives", "sums", compared=False)
RIGHT = Outcome({"weights": np.asarray([1.0, 100.0], "float32")})


def outcome(*values: float, name: str = "weights", **fields) -> Outcome:
    return Outcome({name: np.asarray(values, "float32")}, **fields)


def test_equal_ranks_that_equal_one_process_pass():
    assert judge(COMPARED, [RIGHT, RIGHT], RIGHT) == ""
    nearly = outcome(1.000001, 100.0001)
    assert judge(COMPARED, [nearly, nearly], RIGHT) == ""


@pytest.mark.parametrize(
    ("ranks", "reason"),
    [
        ([outcome(1.0, 100.01)] * 2, "weights differs from one process by 1.0e-04"),
        ([outcome(1.0, float("nan"))] * 2, "differs from one process by inf"),
        ([outcome(1.0)] * 2, "expected (2,), received (1,)"),
        ([outcome(1.0, 100.0, name="other")] * 2, "not on both sides"),
        # Nearly equal is not enough between ranks: they would drift apart.
        ([RIGHT, outcome(1.0, 100.00001)], "ranks 0 and 1 hold different bytes"),
        ([RIGHT, Outcome({})], "ranks 0 and 1 hold different bytes: weights"),
        ([RIGHT, None], "rank 1 left no result"),
    ],
)
def test_every_difference_is_a_reason(ranks, reason):
    assert reason in judge(COMPARED, ranks, RIGHT)


def test_a_difference_in_the_last_bit_between_ranks_is_seen():
    value = np.float32(1.0)
    ranks = [outcome(value), outcome(np.nextafter(value, np.float32(2.0)))]
    assert "different bytes" in judge(ALONE, ranks, None)


def test_the_first_error_is_the_reason():
    ranks = [
        outcome(error="RankLostError: rank 1 has ended", ended=20.0),
        outcome(error="ValueError: bad\n  shape", ended=10.0),
    ]
    assert judge(COMPARED, ranks, RIGHT) == "rank 1: ValueError: bad shape"


def test_what_judges_itself_needs_no_reference():
    assert judge(ALONE, [RIGHT, RIGHT], None) == ""
    assert "one process: it left no" in judge(COMPARED, [RIGHT, RIGHT], None)
    lost = outcome(error="ImportError: x")
    assert "ImportError: x" in judge(COMPARED, [RIGHT, RIGHT], lost)


def test_reasons_are_one_printable_line():
    assert one_line("a\nb\x1b[31m  c") == "a b?[31m c"
    assert len(one_line("x" * 9999)) == 400


def test_outcomes_are_read_without_unpickling(tmp_path):
    objects = np.asarray([{"a": 1}], dtype=object)
    np.savez(tmp_path / "fit.0.npz", **{"weights": objects})
    (tmp_path / "fit.0.json").write_text('{"error": "", "began": 0, "ended": 1}')
    with pytest.raises(ValueError, match="allow_pickle"):
        dict(read_outcome(tmp_path, COMPARED, 0).arrays)
    assert read_outcome(tmp_path, COMPARED, 1) is None


def test_every_check_is_a_function():
    for check in CHECKS:
        assert callable(getattr(checks, check.name)), check
    assert len({check.name for check in CHECKS}) == len(CHECKS)


def test_a_wrong_number_is_named():
    right = np.asarray([1.0, 2.0, 3.0], "float32")
    checks._expect("the sum", right, right)
    with pytest.raises(checks.WrongResultError, match="expected 2 at 1, received 4"):
        checks._expect("the sum", right, np.asarray([1.0, 4.0, 3.0], "float32"))
    with pytest.raises(checks.WrongResultError, match="received nan"):
        checks._expect("the sum", right, np.asarray([1.0, np.nan, 3.0], "float32"))
    with pytest.raises(checks.WrongResultError, match=r"received \(2,\)"):
        checks._expect("the sum", right, right[:2])


def test_ways_are_told_why_they_cannot_run(monkeypatch, tmp_path):
    monkeypatch.setattr(ways, "horovod_library", lambda: None)
    missing = {way.title: way.missing for way in ways.find_ways(2)}
    assert missing["mirrored"] == missing["multiworker"] == ""
    assert missing["horovod over gloo"] == "Horovod is not installed"

    library = tmp_path / "mpi_lib.so"
    monkeypatch.setattr(ways, "horovod_library", lambda: library)
    monkeypatch.setattr(ways, "find_program", lambda name: str(tmp_path / name))
    library.write_bytes(b"\0libgloo\0")
    missing = {way.title: way.missing for way in ways.find_ways(2)}
    assert missing["horovod over gloo"] == ""
    assert missing["horovod over mpi"] == "Horovod is not built with MPI"

    library.write_bytes(b"\0libmpi.so.40\0")
    mpirun = tmp_path / "mpirun"
    for version, reason in (("5.0.11", "not 5"), ("4.1.8", "")):
        mpirun.write_text(f"#!/bin/sh\necho 'mpirun (Open MPI) {version}'\n")
        mpirun.chmod(0o755)
        assert reason in ways._missing_mpi() and bool(reason) == bool(
            ways._missing_mpi()
        )


def test_single_processes_run_side_by_side():
    found = [ways.reference_way(), *ways.find_ways(3)]
    groups = runner.in_groups(found)
    assert [way.title for way in groups[0]] == ["one process", "mirrored"]
    assert all(len(group) == 1 for group in groups[1:])
    assert sum(groups, []) == found


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["-np", "0"], "'0'"),
        (["-np", "1"], "no others"),
        (["-np", "-2"], "'-2'"),
        (["-np", "two"], "'two'"),
        (["-np", "²"], "'²'"),
        (["--strategy", "horowood"], "mirrored, multiworker, horovod"),
    ],
)
def test_bad_input_is_one_line(words, named, capsys):
    words = ["=".join(words)]
    assert main.main(["selftest", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert named in captured.err and "HINT: " in captured.err


def test_nothing_to_run_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(ways, "horovod_library", lambda: None)
    assert main.main(["selftest", "--strategy", "horovod"]) == 2
    assert "HINT: tfdist horovod install" in capsys.readouterr().err
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main.main(["selftest"]) == 2
    assert "TensorFlow is not installed" in capsys.readouterr().err


# What one process does in place of the real program: it is wrong in `fit`.
STAND_IN = """
import json, sys
import numpy as np
from pathlib import Path
out = Path(sys.argv[sys.argv.index("--out") + 1])
strategy = sys.argv[sys.argv.index("--strategy") + 1]
for check in ("collectives", "broadcast", "fit", "predict", "compression"):
    wrong = check == "fit" and strategy == "mirrored"
    np.savez(out / f"{check}.0.npz", a=np.float32([2.0 if wrong else 1.0]))
    outcome = {"error": "", "began": 0.0, "ended": 0.0}
    (out / f"{check}.0.json").write_text(json.dumps(outcome))
    if check == STOP and strategy == "mirrored":
        sys.exit(7)
"""


def run_stand_in(monkeypatch, folder: Path, stop: str | None = None) -> int:
    monkeypatch.setattr(tempfile, "tempdir", str(folder))  # a failure leaves its logs
    program = STAND_IN.replace("STOP", repr(stop))
    monkeypatch.setattr(runner, "PROGRAM", ("-c", program))
    return main.main(["selftest", "--strategy", "mirrored"])


def test_a_difference_is_a_failure(monkeypatch, tmp_path, capsys):
    assert run_stand_in(monkeypatch, tmp_path) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1:3] for line in lines[:5]] == [
        ["collectives", "pass"],
        ["broadcast", "pass"],
        ["fit", "FAILED:"],
        ["predict", "pass"],
        ["compression", "pass"],
    ]
    assert "a differs from one process by 1.0e+00" in lines[2]
    assert lines[5].startswith("selftest: 1 of 5 checks failed; logs are in ")


def test_a_process_that_ends_early_is_a_failure(monkeypatch, tmp_path, capsys):
    assert run_stand_in(monkeypatch, tmp_path, stop="collectives") == 1
    lines = capsys.readouterr().out.splitlines()
    assert "broadcast    FAILED: rank 0 left no result (exit code 7)" in lines[1]
    assert lines[2].endswith("not run") and lines[3].endswith("not run")
