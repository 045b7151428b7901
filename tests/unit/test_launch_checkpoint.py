"""`tfdist checkpoint`: what it shows, and its exit codes."""

import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from tfdist.checkpoint.parts import Part
from tfdist.checkpoint.store import Store
from tfdist.launch.checkpoint.difference import difference
from tfdist.launch.errors import FAILED, NOT_STARTED
from tfdist.launch.main import main


def fill(folder: Path, *steps: int, value: float = 0.0) -> Path:
    """Saves steps of a job of one rank."""
    store = Store(folder, keep=9)
    store.open()
    for step in steps:
        common = {
            "kernel": np.arange(6, dtype=np.float32) + np.float32(value * step),
            "bias": np.zeros(3, ml_dtypes.bfloat16),
        }
        details = {"epoch": step // 10, "strategy": "HorovodStrategy"}
        store.save(step, Part(common=common, own={"r": np.ones(2)}, details=details))
    store.close()
    return folder


def damage(folder: Path, pattern: str) -> None:
    path = next(folder.glob(pattern))
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    code = main(["checkpoint", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_ls_shows_each_step_and_why_one_is_none(tmp_path: Path, capsys):
    fill(tmp_path, 10, 20, 30, 40)
    next(tmp_path.glob("step-00000020/rank-0000*")).unlink()
    (tmp_path / "step-00000030" / "MANIFEST.json").write_text("{}")
    (tmp_path / "step-00000050").mkdir()
    code, out, _ = run(capsys, "ls", tmp_path)
    title, heads, *rows = out.splitlines()
    assert code == 0 and title == f"{tmp_path}: 4 steps"
    assert heads.split() == "step epoch saved size ranks strategy state".split()
    cells = [row.split() for row in rows]
    assert [row[:2] for row in cells] == [
        ["10", "1"],
        ["20", "2"],
        ["30", "-"],
        ["40", "4"],
        ["50", "-"],
    ]
    assert cells[0][6:] == ["1", "HorovodStrategy", "complete"]
    assert rows[1].endswith("is missing")
    assert "digest" in rows[2]
    assert rows[4].endswith("unfinished: no MANIFEST.json")


def test_ls_shows_who_uses_the_directory(tmp_path: Path, capsys):
    store = Store(tmp_path, run_id="mine")
    store.open()
    code, out, _ = run(capsys, "ls", tmp_path)
    store.close()
    assert code == 0 and "in use: run mine, process" in out


def test_ls_does_not_let_a_manifest_steer_the_terminal(tmp_path: Path, capsys):
    store = Store(tmp_path)
    store.open()
    store.save(1, Part(details={"strategy": "\x1b[2J", "epoch": "\n"}))
    store.close()
    _, out, _ = run(capsys, "ls", tmp_path)
    assert "\x1b" not in out and len(out.splitlines()) == 3


def test_verify_is_content_with_what_was_saved(tmp_path: Path, capsys):
    fill(tmp_path, 10, 20)
    assert run(capsys, "verify", tmp_path)[:2] == (0, "step 20: ok\nstep 10: ok\n")


def test_verify_finds_a_flipped_bit(tmp_path: Path, capsys):
    fill(tmp_path, 10, 20)
    damage(tmp_path, "step-00000020/common*")
    code, out, _ = run(capsys, "verify", tmp_path)
    assert code == FAILED
    assert out.startswith("step 20: DAMAGED: ") and "SHA-256" in out
    assert run(capsys, "verify", tmp_path, "--step", 10)[0] == 0
    assert run(capsys, "verify", tmp_path, "--step", 20)[0] == FAILED


def test_diff_of_the_newest_steps(tmp_path: Path, capsys):
    fill(tmp_path, 10, 20, 30, value=0.5)
    code, out, _ = run(capsys, "diff", tmp_path)
    assert code == FAILED
    assert out.splitlines() == [
        "common kernel: 6 of 6 differ, by at most 5.0e+00, relative to the largest "
        "3.3e-01",
        "details epoch: 2 and 3",
        "step 20 and step 30: 1 of 3 tensors differ",
    ]


def test_diff_of_chosen_steps_that_are_equal(tmp_path: Path, capsys):
    fill(tmp_path, 10, 20, 30)
    code, out, _ = run(capsys, "diff", tmp_path, "--steps", "10,30")
    assert code == 0
    assert out.splitlines()[-1] == "step 10 and step 30: 0 of 3 tensors differ"


def test_diff_of_two_directories(tmp_path: Path, capsys):
    one, two = fill(tmp_path / "1", 10, 20), fill(tmp_path / "2", 10, 20, 30)
    assert run(capsys, "diff", one, two)[0] == 0
    three = fill(tmp_path / "3", 20, value=0.5)
    code, out, _ = run(capsys, "diff", one, three, "--steps", 20)
    assert code == FAILED and "common kernel: 6 of 6 differ" in out


@pytest.mark.parametrize(
    ("one", "other", "text"),
    [
        (np.zeros(2), None, "only in the first"),
        (None, np.zeros(2), "only in the second"),
        (np.zeros(2), np.zeros(2, np.float32), "float64 (2,) and float32 (2,)"),
        (np.array([0.0]), np.array([-0.0]), "1 of 1 differ, by at most 0.0e+00"),
        (np.array([np.nan, 1.0]), np.array([np.nan, 1.0]), None),
        (np.array(3), np.array(5), "1 of 1 differ, by at most 2.0e+00"),
        (np.array([True]), np.array([False]), "1 of 1 differ, by at most 1.0e+00"),
        (np.zeros((0, 2)), np.zeros((0, 2)), None),
        (np.array([1j]), np.array([2j]), "1 of 1 differ, by at most 1.0e+00"),
        (np.array([np.inf]), np.array([1.0]), "1 of 1 differ, by at most inf"),
    ],
)
def test_differences(one, other, text):
    found = difference(one, other)
    assert found == text or (text is not None and found.startswith(text))


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["ls", "{}/nothing"], NOT_STARTED, "no folder"),
        (["ls", "nowhere://x"], NOT_STARTED, "nowhere://"),
        (["verify", "{}/nothing"], NOT_STARTED, "no folder"),
        (["verify", "{}/run", "--step", "7"], NOT_STARTED, "no step 7"),
        (["verify", "{}/run", "--step", "-1"], NOT_STARTED, "'-1'"),
        (["verify", "{}/run", "--step", "x"], NOT_STARTED, "expected a step"),
        (["verify", "{}/other"], NOT_STARTED, "no checkpoint"),
        (["diff", "{}/run"], NOT_STARTED, "two steps"),
        (["diff", "{}/run", "--steps", "10"], NOT_STARTED, "two steps"),
        (["diff", "{}/run", "--steps", "10,11"], NOT_STARTED, "no step 11"),
        (["diff", "{}/run", "--steps", "10,"], NOT_STARTED, "expected a step"),
        (["diff", "{}/run", "{}/other"], NOT_STARTED, "one step that both"),
        (["diff", "{}/run", "{}/run", "--steps", "1,2"], NOT_STARTED, "one step"),
        (["diff", "{}/damaged"], FAILED, "cannot be compared"),
    ],
    ids=str,
)
def test_wrong_arguments_are_told_in_one_line(arguments, code, named, tmp_path, capsys):
    fill(tmp_path / "run", 10)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("x")
    damage(fill(tmp_path / "damaged", 1, 2), "step-00000001/common*")
    words = [word.format(tmp_path) for word in arguments]
    found, out, err = run(capsys, *words)
    assert found == code and out == ""
    assert err.startswith("tfdist: ") and err.count("\n") == 1
    assert named in err and "HINT: " in err


def test_it_needs_no_tensorflow(tmp_path: Path):
    fill(tmp_path, 1, 2)
    code = (
        "import sys; from tfdist.launch.main import main;"
        f"codes = [main(['checkpoint', verb, {str(tmp_path)!r}])"
        " for verb in ('ls', 'verify', 'diff')];"
        "assert codes == [0, 0, 0], codes;"
        "sys.exit(bool({'tensorflow', 'keras'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
