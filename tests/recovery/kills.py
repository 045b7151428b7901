"""Kills the job at every operation that reaches the disk, and starts it again.

    python -m tests.recovery.kills FOLDER SCENARIO [--random KILLS]

A dry run counts the operations; then, for each, a forked child is killed with SIGKILL
before it, in the middle of it (where it is a write) and after it, and another child
goes on from what is there. Or so many children are killed at random times, one after
the other on what the last has left. Prints what was counted and what was wrong as JSON.

Scenarios:

fresh     one process that begins in an empty directory
again     one process that goes on after a crash, with the newest step damaged
chief     two processes, of which rank 0 is killed
other     two processes, of which rank 1 is killed
naive     one process that saves as Keras's callbacks do: shows what would be noticed
"""

import argparse
import json
import os
import random
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.recovery import job, naive
from tests.recovery.faults import READING, Watched, moments
from tests.recovery.forks import Ended, Note, fork, wait
from tfdist.checkpoint import tensors
from tfdist.checkpoint.local import LocalFileSystem


@dataclass(frozen=True)
class Scenario:
    """What is run, and who of it is killed."""

    run: Callable[..., job.Report] = job.run
    size: int = 1
    victim: int = 0
    # How often each rank looks for others' files depends on time: not counted then.
    ignored: tuple[str, ...] = ()
    prepare: Callable[[Path], None] = lambda folder: None  # makes it, or leaves it out
    base: int | None = None  # the step that is good then
    leftovers: Callable[[Path], list[str]] = lambda folder: names(folder)


def crashed(folder: Path) -> None:
    """Leaves what a crash in the save of step 4 leaves, and step 3 damaged."""
    counted = Watched(LocalFileSystem())
    job.run(str(folder), counted)
    shutil.rmtree(folder)
    last = max(
        number
        for number, (operation, path) in enumerate(counted.done)
        if operation == "replace" and "MANIFEST" in path
    )
    files = Watched(LocalFileSystem(), killed_at(last, "before"))
    wait([fork(lambda note: job.run(str(folder), files) and None)])
    (broken,) = folder.glob("step-00000003/common-*")
    data = bytearray(broken.read_bytes())
    data[-1] ^= 1
    broken.write_bytes(data)


SCENARIOS = {
    "fresh": Scenario(),
    "again": Scenario(prepare=crashed, base=2),
    "chief": Scenario(size=2, victim=0, ignored=READING),
    "other": Scenario(size=2, victim=1, ignored=READING),
    "naive": Scenario(run=naive.run, leftovers=naive.names),
}


# What a child that is to be killed does first.
Doom = Callable[[Watched], None]


def killed_at(number: int, moment: str) -> Callable[[int, str, str, str], None]:
    """Returns what kills this process at a moment of an operation."""

    def happening(current: int, operation: str, path: str, when: str) -> None:
        if current == number and when == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    return happening


def doomed_at(number: int, moment: str) -> Doom:
    """Returns what lets a child be killed at a moment of an operation."""

    def doom(watched: Watched) -> None:
        watched.happening = killed_at(number, moment)

    return doom


def doomed_after(seconds: float) -> Doom:
    """Returns what lets a child be killed after a time."""

    def doom(watched: Watched) -> None:
        # Without a handler this signal ends a process as SIGKILL does.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)

    return doom


def start(
    scenario: Scenario, folder: Path, doom: Doom | None = None, victim: int = 0
) -> list[Ended]:
    """Runs the job in a child for each rank; one of them may be doomed."""
    pairs = list(socket.socketpair()) if scenario.size == 2 else [None]

    def work(rank: int, note: Note) -> None:
        watched = Watched(LocalFileSystem(), ignored=scenario.ignored)
        if doom is not None and rank == victim:
            doom(watched)
        more = {}
        if scenario.size == 2:
            pairs[1 - rank].close()
            more = {"rank": rank, "agree": agreement(pairs[rank], rank)}
        report = scenario.run(str(folder), watched, note=note, **more)
        note("report", vars(report))
        note("operations", watched.done)

    children = [
        fork(lambda note, rank=rank: work(rank, note)) for rank in range(scenario.size)
    ]
    for end in filter(None, pairs):
        end.close()
    return wait(children, until_first_dies=True)


def agreement(connection: socket.socket, rank: int) -> Callable[[Any], list[Any]]:
    """Returns how two ranks tell each other a value."""
    lines = connection.makefile()

    def agree(value: Any) -> list[Any]:
        connection.sendall(json.dumps(value).encode() + b"\n")
        other = json.loads(lines.readline())
        return [value, other] if rank == 0 else [other, value]

    return agree


@dataclass
class History:
    """What the chief has told before it was killed.

    Attributes:
        saved: The last step that it has loaded or whose save has returned.
        begun: The last step whose save had begun.
    """

    saved: int | None = None
    begun: int | None = None

    def then(self, chief: Ended) -> "History":
        """Returns the history with one more start of the job."""
        saved = chief.last("saved") or chief.last("loaded") or self.saved
        return History(saved, chief.last("begun") or self.begun)


def judge(history: History, ended: list[Ended]) -> Iterator[str]:
    """Yields what is wrong with how a job went on to its end."""
    reports = [each.last("report") for each in ended]
    if None in reports:
        yield f"it cannot be started again: {[each.last('error') for each in ended]}"
        return
    chief = reports[0]["loaded"]
    if chief not in (history.saved, history.begun):
        yield f"step {chief} was loaded after {history}"
    for rank, report in enumerate(reports):
        golden = job.golden(rank)
        if report["loaded"] != chief:
            yield f"rank {rank} has loaded step {report['loaded']}, rank 0 {chief}"
        if chief is not None and report["loaded_digest"] != golden[chief]:
            yield f"rank {rank}: the state of step {chief} is not what it was"
        if report["digest"] != golden[-1]:
            yield f"rank {rank}: the end is another one"


def names(folder: Path, more: int = 1) -> list[str]:
    """Returns what should not be in the directory at the end of a job.

    Args:
        folder: The directory.
        more: Steps above those that are kept: a kill before they are deleted leaves
            them to the next save, and after the last one there is none.
    """
    steps = [f"step-{step:08d}" for step in range(job.STEPS + 1)]
    expected = steps[-job.KEEP :]
    found = sorted(path.name for path in folder.iterdir())
    wrong = [n for n in found if n not in steps[-job.KEEP - more :]]
    wrong += [f"no {name}" for name in expected if name not in found]
    for step in folder.glob("step-*"):
        manifest = json.loads((step / "MANIFEST.json").read_text())
        needed = {"MANIFEST.json", *manifest["files"]}
        wrong += [path.name for path in step.iterdir() if path.name not in needed]
    return wrong


def enumerate_kills(scenario: Scenario, place: Path) -> dict[str, Any]:
    """Kills the job at every moment; returns the numbers and what was wrong."""
    scenario.prepare(place / "before")
    _copy(place / "before", place / "dry")
    operations = start(scenario, place / "dry")[scenario.victim].last("operations")
    kills, wrong = 0, []
    for number, moment in moments(operations):
        folder = place / f"{number}-{moment}"
        _copy(place / "before", folder)
        first = start(scenario, folder, doomed_at(number, moment), scenario.victim)
        second = start(scenario, folder)
        history = History(saved=scenario.base).then(first[0])
        found = list(judge(history, second)) or scenario.leftovers(folder)
        if not first[scenario.victim].killed:
            found.append(f"it was not killed: {first}")
        kills += 1
        wrong += [f"{number} {moment} {operations[number]}: {each}" for each in found]
        shutil.rmtree(folder)
    return {"operations": len(operations), "kills": kills, "wrong": wrong}


def _copy(source: Path, folder: Path) -> None:
    if source.exists():
        shutil.copytree(source, folder)


def kill_at_random(
    scenario: Scenario, place: Path, count: int, seed: int = 1
) -> dict[str, Any]:
    """Kills as many children, mostly in the middle of their work."""
    dice = random.Random(seed)
    began = time.monotonic()
    start(scenario, place / "dry")
    usual = time.monotonic() - began
    kills, runs, wrong = 0, 0, []
    folder, history = place / "0", History()
    while kills < count:
        doom = doomed_after(dice.uniform(0.0, 0.8) * usual + 1e-4)
        ended = start(scenario, folder, doom, dice.randrange(scenario.size))
        if any(each.killed for each in ended):
            kills += 1
            loaded = ended[0].last("loaded")
            if loaded not in (None, history.saved, history.begun):
                wrong.append(f"at kill {kills} {loaded} was loaded after {history}")
            history = history.then(ended[0])
            continue
        # Each of several kills may have come before steps were deleted.
        found = list(judge(history, ended)) or names(folder, more=job.STEPS)
        wrong += [f"after {kills} kills: {each}" for each in found]
        runs += 1
        folder, history = place / str(runs), History()
    return {"kills": kills, "runs": runs, "wrong": wrong}


def main() -> int:
    """Runs the enumeration and prints its result."""
    tensors.CHUNK = 64  # bytes: small files are written in pieces, as large ones are
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("scenario", choices=SCENARIOS)
    parser.add_argument("--random", type=int, metavar="KILLS")
    options = parser.parse_args()
    scenario = SCENARIOS[options.scenario]
    if options.random is None:
        result = enumerate_kills(scenario, options.folder)
    else:
        result = kill_at_random(scenario, options.folder, options.random)
    result["imported"] = [
        name for name in ("tensorflow", "keras") if name in sys.modules
    ]
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
