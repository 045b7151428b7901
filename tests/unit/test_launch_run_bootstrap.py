"""A script under `tfdist run` sees what it sees under `python`."""

import os
import subprocess
import sys

import pytest

from tfdist.coordination import progress
from tfdist.launch.run.stacks import innermost, is_waiting, main_thread

SHOW = """
import os, sys
print(__name__, sys.argv, os.path.realpath(sys.path[0]), __file__)
print(sys.modules["__main__"].__dict__ is globals(), __builtins__)
import beside
print(beside.NAME)
"""

FORKING = """
import os, sys
child = os.fork()
if not child:
    sys.exit(3)
print(os.waitpid(child, 0)[1])
"""


def both(folder, *words: str):
    """Runs the words with Python alone and in a rank; returns both results."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    events_read, events = os.pipe()
    stacks_read, stacks = os.pipe()
    record = progress.create()
    inside = [str(os.getpid()), str(events), str(stacks), str(record)]
    results = []
    for command in (
        [sys.executable, *words],
        [sys.executable, "-m", "tfdist.launch.run.bootstrap", *inside, *words],
    ):
        results.append(
            subprocess.run(
                command,
                cwd=folder,
                env=environment,
                pass_fds=(events, stacks, record),
                capture_output=True,
                text=True,
                timeout=60,
            )
        )
    os.close(events)
    os.close(stacks)
    os.close(record)
    told = os.read(events_read, 100).decode()
    os.close(events_read)
    os.close(stacks_read)
    return *results, told


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/beside.py").write_text("NAME = 'beside the script'")
    return tmp_path


@pytest.mark.parametrize(
    ("script", "told"),
    [
        (SHOW, ""),
        ("import sys; sys.exit()", ""),
        ("import sys; sys.exit(3)", "failed 3\n"),
        ("import sys; sys.exit('a reason')", "failed 1\n"),
        ("def f():\n    return 1 / 0\nf()", "failed 1\n"),
        (
            "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise OSError from e",
            "",
        ),
        ("def f(:", "failed 1\n"),
        ("raise KeyboardInterrupt", "failed 130\n"),
        ("import os; os._exit(7)", ""),
        (FORKING, ""),
        ("def f(x: int): pass\nprint(f.__annotations__)", ""),
        ("import atexit; atexit.register(print, 'end'); raise SystemExit(2)", ""),
    ],
)
def test_like_python(folder, script, told):
    (folder / "sub/script.py").write_text(script)
    plain, ranked, event = both(folder, "sub/script.py", "-x", "y")
    assert ranked.returncode == plain.returncode
    assert ranked.stdout == plain.stdout
    assert ranked.stderr == plain.stderr
    assert event == told or (not told and plain.returncode)


def frames(text: str) -> list[str]:
    marks = ("~", "^")
    return [line for line in text.splitlines() if not line.strip().startswith(marks)]


def test_a_module_like_python_m(folder):
    (folder / "sub/__main__.py").write_text(
        "import sys; print(__name__, __package__, sys.argv[1:], sys.path[0])\n1 / 0"
    )
    plain, ranked, event = both(folder, "-m", "sub", "-m", "x")
    assert ranked.returncode == plain.returncode == 1
    assert ranked.stdout == plain.stdout
    assert frames(ranked.stderr)[-3:] == frames(plain.stderr)[-3:]
    assert event == "failed 1\n"


HEADER = "Thread 0x00007f (most recent call first):\n"
OTHER = HEADER + '  File "/x/threading.py", line 1 in wait\n\n'


def stack(*frames: tuple[str, str], current: bool = True) -> str:
    head = f"Current {HEADER[0].lower()}{HEADER[1:]}" if current else HEADER
    lines = [f'  File "{file}", line 5 in {function}\n' for file, function in frames]
    return OTHER + head + "".join(lines)


EXECUTE = ("/s/tensorflow/python/eager/execute.py", "quick_execute")
SCRIPT = ("train.py", "<module>")


@pytest.mark.parametrize("current", [True, False])
@pytest.mark.parametrize(
    ("frames", "waiting"),
    [
        ([EXECUTE, SCRIPT], True),
        ([("<string>", "f"), ("/s/horovod/tensorflow/mpi_ops.py", "f"), SCRIPT], True),
        (
            [("/p/threading.py", "wait"), ("/t/tfdist/coordination/ledger.py", "a")],
            True,
        ),
        ([("train.py", "load"), ("/t/tfdist/coordination/progress.py", "c")], False),
        ([("train.py", "load"), EXECUTE], False),  # Python, called by TensorFlow
        ([("<string>", "f"), SCRIPT], False),
        ([SCRIPT], False),
    ],
)
def test_waiting_for_others_is_seen_in_the_main_thread(frames, waiting, current):
    text = stack(*frames, current=current)
    assert main_thread(text) == frames
    assert is_waiting(text) is waiting


def test_no_stacks_do_not_wait():
    assert not is_waiting("")
    assert innermost("output") == ""


def test_the_innermost_frames_are_shown():
    text = "output\n" + stack(EXECUTE, SCRIPT)
    assert innermost(text, 2).splitlines()[1].endswith("in quick_execute")
    assert len(innermost(text, 2).splitlines()) == 2
