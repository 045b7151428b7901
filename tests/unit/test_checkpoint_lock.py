"""One job at a time in a directory, whatever clocks say."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tfdist.checkpoint import lock as locks
from tfdist.checkpoint.errors import CheckpointError, OccupiedError
from tfdist.checkpoint.files import publish
from tfdist.checkpoint.local import LocalFileSystem
from tfdist.checkpoint.lock import Lock, Record, read_lock
from tfdist.checkpoint.owner import Owner, is_running, this_process

FILES = LocalFileSystem()


def held(folder: Path, every: float = 3600.0) -> Lock:
    lock = Lock(FILES, str(folder), every=every)
    lock.acquire("run", "00000001")
    return lock


def write(folder: Path, record: Record) -> None:
    (folder / locks.NAME).write_text(json.dumps(asdict(record)))


@pytest.fixture
def other_process():
    """A process that runs, and is not this one."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def owner_of(process: subprocess.Popen) -> Owner:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return replace(this_process(), process=process.pid, started=fields[19])


def test_the_lock_is_taken_and_given_back(tmp_path: Path):
    lock = held(tmp_path)
    assert read_lock(FILES, str(tmp_path)).owner == this_process()
    lock.check()
    lock.release()
    assert not list(tmp_path.iterdir())


@pytest.mark.failure(12)
def test_a_job_that_runs_keeps_its_directory(tmp_path: Path, other_process):
    write(tmp_path, Record("run", "00000009", owner_of(other_process)))
    with pytest.raises(
        OccupiedError, match="another job.*process.*\n?HINT: "
    ) as caught:
        held(tmp_path)
    assert str(other_process.pid) in str(caught.value)
    assert read_lock(FILES, str(tmp_path)).session == "00000009"


@pytest.mark.failure(12)
def test_a_job_that_was_killed_does_not(tmp_path: Path, other_process):
    write(tmp_path, Record("run", "00000009", owner_of(other_process)))
    other_process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, other_process.pid, os.WEXITED | os.WNOWAIT)
    # A zombie: its parent has not asked yet.
    started = time.monotonic()
    held(tmp_path).release()
    assert time.monotonic() - started < locks.EVERY


def test_a_number_that_another_process_has_now_is_no_job(tmp_path: Path, other_process):
    write(
        tmp_path,
        Record("run", "00000009", replace(owner_of(other_process), started="17")),
    )
    held(tmp_path).release()


ELSEWHERE = Owner("host2", "another boot pid:[1]", 12, "34")


@pytest.mark.failure(12)
def test_a_job_on_another_machine_that_beats_keeps_its_directory(tmp_path: Path):
    record = Record("run", "00000009", ELSEWHERE, every=0.05)
    write(tmp_path, record)
    ended = threading.Event()

    def beat() -> None:
        number = 0
        while not ended.wait(0.02):
            number += 1
            data = json.dumps(asdict(replace(record, beat=number))).encode()
            publish(FILES, f"{tmp_path}/{locks.NAME}", data, durable=False)

    beats = threading.Thread(target=beat)
    beats.start()
    try:
        with pytest.raises(OccupiedError, match="host2"):
            held(tmp_path)
    finally:
        ended.set()
        beats.join()


@pytest.mark.failure(12)
def test_a_job_on_another_machine_that_is_silent_does_not(tmp_path: Path):
    write(tmp_path, Record("run", "00000009", ELSEWHERE, every=0.02))
    held(tmp_path).release()


@pytest.mark.failure(12)
@pytest.mark.parametrize("jump", [-1e6, 1e6])
def test_a_jump_of_the_clock_changes_nothing(
    jump, tmp_path, monkeypatch, other_process
):
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + jump)
    write(tmp_path, Record("run", "00000009", owner_of(other_process)))
    with pytest.raises(OccupiedError):
        held(tmp_path)
    write(tmp_path, Record("run", "00000009", ELSEWHERE, every=0.02))
    held(tmp_path).release()


def test_beats_are_counted_also_the_second_time(tmp_path: Path):
    lock = Lock(FILES, str(tmp_path), every=0.01)
    for session in ("00000001", "00000002"):
        lock.acquire("run", session)
        try:
            end = time.monotonic() + 30
            while read_lock(FILES, str(tmp_path)).beat < 3:
                assert time.monotonic() < end
                time.sleep(0.01)
        finally:
            lock.release()
        assert not list(tmp_path.iterdir())


def test_a_job_elsewhere_that_ends_while_it_is_watched_gives_way(tmp_path, monkeypatch):
    write(tmp_path, Record("run", "00000009", ELSEWHERE, every=60.0))
    monkeypatch.setattr(time, "sleep", lambda _: (tmp_path / locks.NAME).unlink())
    held(tmp_path).release()


@pytest.mark.failure(12)
def test_who_was_taken_over_writes_nothing_any_more(tmp_path: Path):
    first = held(tmp_path, every=0.01)
    second = Lock(FILES, str(tmp_path), every=3600.0)
    second.acquire("run", "00000002")
    with pytest.raises(OccupiedError):
        first.check()
    first.release()
    assert read_lock(FILES, str(tmp_path)).session == "00000002"
    second.check()
    second.release()


def test_a_lock_that_was_removed_is_told(tmp_path: Path):
    lock = held(tmp_path)
    (tmp_path / locks.NAME).unlink()
    with pytest.raises(CheckpointError, match="removed or emptied.*\n?HINT: "):
        lock.check()
    lock.release()


@pytest.mark.failure(42)
@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "\x80\x04",
        '{"run_id": 1, "session": "x", "owner": {}}',
        json.dumps({**asdict(Record("r", "s", ELSEWHERE)), "every": -1}),
        json.dumps({**asdict(Record("r", "s", ELSEWHERE)), "every": "x"}),
        json.dumps({**asdict(Record("r", "s", ELSEWHERE)), "owner": []}),
        "x" * (1 << 17),
    ],
)
def test_a_lock_that_is_nonsense_holds_nothing(text, tmp_path: Path):
    (tmp_path / locks.NAME).write_text(text)
    held(tmp_path).release()


TAKE = """
import sys
from tfdist.checkpoint.errors import OccupiedError
from tfdist.checkpoint.local import LocalFileSystem
from tfdist.checkpoint.lock import Lock
lock = Lock(LocalFileSystem(), sys.argv[1], every=3600.0)
input()
try:
    lock.acquire("run", sys.argv[2])
    print("got it", flush=True)
except OccupiedError:
    print("refused", flush=True)
input()
"""


@pytest.mark.failure(12)
def test_of_several_that_take_it_at_once_one_gets_it(tmp_path: Path):
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", TAKE, str(tmp_path), f"{number:08x}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    try:
        for job in jobs:
            job.stdin.write("\n")
            job.stdin.flush()
        answers = [job.stdout.readline().strip() for job in jobs]
    finally:
        for job in jobs:
            job.communicate("\n", timeout=60)
    assert sorted(answers) == ["got it", "refused", "refused", "refused"]


def test_this_process_runs():
    assert is_running(this_process()) is True
    assert is_running(ELSEWHERE) is None
    assert is_running(replace(this_process(), process=2**22 + 1)) is False
