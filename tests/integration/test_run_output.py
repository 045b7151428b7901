"""What a user of `tfdist run` sees, and where the rest is: needs real processes."""

import json
import os
import subprocess

import pytest

from tests.integration.running import SECONDS, wait_until

PRINTING = """
import json, os, sys
rank = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
print(f"rank {rank} {sys.argv[1:]} {__name__} {os.path.basename(sys.argv[0])}")
print(f"warning {rank}", file=sys.stderr)
print("terminal" if sys.stdout.isatty() else "no terminal")
sys.stdout.buffer.write(b"\\xff\\xfe\\n")
for step in range(3):
    print(f"\\rstep {step}", end="")
print()
"""

LOCAL_WORKERS = ("-np", "2", "--strategy", "multiworker")


def test_rank_0_is_shown_as_it_writes_and_all_are_logged(run):
    one = run(PRINTING, *LOCAL_WORKERS, words=("--strategy", "x y"), stdout=-1)
    out, err = one.process.stdout.buffer.read(), one.process.stderr.buffer.read()
    assert one.process.wait(SECONDS) == 0
    assert out == (
        b"rank 0 ['--strategy', 'x y'] __main__ script.py\nno terminal\n"
        b"\xff\xfe\n\rstep 0\rstep 1\rstep 2\n"
    )
    assert err == b"warning 0\n"
    log = (one.logs / "rank-1.log").read_bytes()
    assert log.startswith(b"rank 1 ['--strategy', 'x y'] __main__ script.py\nwarning 1")
    assert log.endswith(b"\xff\xfe\n\rstep 0\rstep 1\rstep 2\n")
    first = (one.logs / "rank-0.log").read_bytes()
    assert all(line in first for line in (out[:20], b"warning 0\n", out[-22:]))
    records = [
        json.loads(line) for line in (one.logs / "exits.jsonl").read_text().splitlines()
    ]
    assert sorted(record["rank"] for record in records) == [0, 1]
    assert all(record["exit code"] == 0 and record["time"] > 0 for record in records)
    assert not one.survivors()


def test_on_a_terminal_rank_0_has_one_too(run):
    ours, theirs = os.openpty()
    one = run(PRINTING, *LOCAL_WORKERS, stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen = b""

    def read_all() -> bool:
        nonlocal seen
        try:
            chunk = os.read(ours, 4096)
        except OSError:  # nobody writes to it any more
            return True
        seen += chunk
        return not chunk

    wait_until(read_all, SECONDS, lambda: seen)
    os.close(ours)
    assert one.process.wait(SECONDS) == 0
    # The terminal itself makes \r\n of \n, once.
    assert b"\r\nwarning 0\r\nterminal\r\n" in seen
    assert seen.endswith(b"\rstep 0\rstep 1\rstep 2\r\n")
    assert b"\nterminal\n" in (one.logs / "rank-0.log").read_bytes()
    assert "no terminal" in one.log(1)  # the negative control


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("auto", "strategy: horovod (Horovod is built)"),
        ("mirrored", "environment: TFDIST_STRATEGY=mirrored, TFDIST_REPLICAS=2"),
        ("multiworker", 'rank 1: TF_CONFIG={"cluster": {"worker": ["127.0.0.1:'),
        ("horovod", "command: horovodrun -np 2 -H localhost:2 --gloo"),
    ],
)
def test_dry_run_prints_the_plan_and_starts_nothing(run, strategy, expected):
    if strategy in ("auto", "horovod"):
        pytest.importorskip("horovod", reason="Horovod is not built")
    started = "open('started', 'w')"
    one = run(started, "-np", "2", "--strategy", strategy, "--dry-run", words=("a b",))
    code, out, err = one.finish()
    assert (code, err) == (0, "")
    assert expected in out
    assert "script: script.py 'a b'\n" in out
    assert not one.logs.exists()
    assert not (one.logs.parent / "started").exists()


def test_a_module_runs_like_python_m(run, tmp_path):
    (tmp_path / "package").mkdir()
    (tmp_path / "package/__main__.py").write_text(
        "import sys; print(__package__, sys.argv[1:], sys.path[0])"
    )
    one = run("", *LOCAL_WORKERS, module=("-m", "package", "-x", "--dry-run"))
    code, out, err = one.finish()
    assert (code, err) == (0, "")
    assert out == f"package ['-x', '--dry-run'] {tmp_path}\n"


def test_a_reader_that_leaves_ends_nothing(run):
    one = run(
        "import time\nfor n in range(50):\n    print(n)\n    time.sleep(0.01)\n"
        "open('done', 'a').write('x')",
        *LOCAL_WORKERS,
        stderr=subprocess.DEVNULL,
    )
    assert one.process.stdout.readline() == "0\n"
    one.process.stdout.close()
    assert one.process.wait(SECONDS) == 0
    assert (one.logs.parent / "done").read_text() == "xx"
