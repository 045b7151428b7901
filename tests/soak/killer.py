"""Kills ranks of a job at random moments, and watches what comes of it."""

import os
import random
import re
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.integration.running import Run
from tests.recovery import told

INTERVAL = 4  # steps between two checkpoints, as tests/recovery/training.py has it

JOBS = {
    "training": "tests.recovery.training",
    "counting": "tests.soak.counting",
}

_PATIENCE = 240.0  # seconds without any news, on a busy machine
_POLL = 0.001
_COMMITTED = re.compile(r"step-(\d+)")


@dataclass
class Start:
    """One start of the job."""

    committed: int = 0  # the newest checkpoint just before it was killed
    reached: int = 0  # the last step that any rank had made by then
    resumed: int | None = None  # where it went on; None: it was killed before that
    killed: bool = False
    began: float = 0.0  # seconds of the monotonic clock
    stepped: float | None = None  # when it made its first step


@dataclass
class Round:
    """One job from its start to its end."""

    starts: list[Start] = field(default_factory=list)
    hash: str = ""  # of weights and history, as all ranks have printed it

    @property
    def kills(self) -> int:
        """How many starts have ended by a kill."""
        return len(self.starts) - 1

    def died_by_itself(self) -> bool:
        """Return whether a start has failed that nobody had killed."""
        return not all(start.killed for start in self.starts[:-1])

    def lost(self) -> list[int]:
        """Return the committed steps that each restart did not find: none."""
        return [
            max(start.committed for start in self.starts[:number]) - after.resumed
            for number, after in enumerate(self.starts)
            if number and after.resumed is not None
        ]

    def repeated(self) -> list[int]:
        """Return the steps that each restart has made again."""
        return [
            max(0, max(start.reached for start in self.starts[:number]) - after.resumed)
            for number, after in enumerate(self.starts)
            if number and after.resumed is not None
        ]

    def restart_seconds(self) -> list[float]:
        """Return the time from each start to its first step."""
        return [s.stepped - s.began for s in self.starts if s.stepped is not None]


class Killer:
    """Watches one job from outside, and kills one or both of its ranks in each start.

    Args:
        run: The job.
        ranks: How many it has.
        random: Draws who is killed, and when.
        start_seconds: About how long a start takes to its first step.
        say: Called with each kill, in words.
    """

    def __init__(
        self,
        run: Run,
        ranks: int,
        random: random.Random,
        start_seconds: float,
        say: Callable[[str], None],
    ) -> None:
        self._run = run
        self._folder = run.logs.parent
        self._ranks = range(ranks)
        self._random = random
        self._start_seconds = start_seconds
        self._say = say
        self._news = time.monotonic()
        self._last: object = None

    def play(self, kills: int) -> Round:
        """Kill up to so often; return when the job has ended by itself."""
        played = Round()
        while self._wait_for_start(len(played.starts)):
            start = Start(began=time.monotonic())
            played.starts.append(start)
            if played.kills < kills:
                self._kill(played.kills, start)
        for number, start in enumerate(played.starts):
            places = [self._told(number, rank) for rank in self._ranks]
            start.reached = max(place.step for place in places if place is not None)
            text = self._run.log(0, number)
            resumed = re.search(r"^resumed (\d+)$", text, re.MULTILINE)
            start.resumed = int(resumed[1]) if resumed else None
        return played

    def _wait_for_start(self, number: int) -> bool:
        """Return whether the job starts once more, and does not end."""
        while any(self._told(number, rank) is None for rank in self._ranks):
            if self._run.process.poll() is not None:
                return False
            self._be_patient(number - 1)
            time.sleep(_POLL)
        return True

    def _kill(self, number: int, start: Start) -> None:
        """Wait for a random moment of a start, and kill if it has not ended before."""
        early = self._random.random() < 0.2  # before the first step
        seconds = self._random.uniform(0.0, self._start_seconds)
        steps = self._random.randint(1, 14)
        delay = self._random.uniform(0.0, 0.04)
        spared = self._random.random() < 0.7  # if it ends before
        both = list(self._ranks)
        victims = self._random.choice([both, *([rank] for rank in both)])
        first: int | None = None  # step that it made
        while True:
            places = [self._told(number, rank) for rank in self._ranks]
            step = max(place.step for place in places)
            now = time.monotonic()
            if step and first is None:
                first, start.stepped = step, now
            if early and now >= start.began + seconds:
                break
            if not early and first is not None and step >= first + steps - 1:
                break
            if any(place.where == "end" for place in places):
                if spared:
                    return
                break
            self._be_patient(number)
            if self._run.process.poll() is not None:
                return
            time.sleep(_POLL)
        time.sleep(delay)
        start.committed = self._committed()
        for rank in victims:
            with suppress(ProcessLookupError):
                os.kill(places[rank].pid, signal.SIGKILL)
                start.killed = True
        where = " and ".join(f"rank {n} in {places[n].where}" for n in victims)
        self._say(
            f"start {number}: killed {where} after step {step}, checkpoint "
            f"{start.committed}"
        )

    def _told(self, number: int, rank: int) -> told.Told | None:
        return told.read(self._folder, number, rank)

    def _committed(self) -> int:
        found = [
            int(_COMMITTED.fullmatch(path.parent.name)[1])
            for path in (self._folder / "saved").glob("step-*/MANIFEST.json")
        ]
        return max(found, default=0)

    def _be_patient(self, number: int) -> None:
        """Fail where nothing has happened for minutes."""
        seen = (number, [self._told(number, rank) for rank in self._ranks])
        if seen != self._last:
            self._last, self._news = seen, time.monotonic()
        if time.monotonic() > self._news + _PATIENCE:
            raise TimeoutError(
                f"no news for {_PATIENCE:.0f} s: {seen}; {self._run.logs}"
            )


def make_run(folder: Path, job: str, *options: str) -> Run:
    """Start a job in a new folder.

    Args:
        folder: Made.
        job: "training" or "counting".
        *options: Of `tfdist run`.
    """
    folder.mkdir(parents=True)
    words = ("--max-restarts", "100000", "--max-repeats", "0", "--backoff", "0")
    words += ("--grace", "10", *options)
    return Run(folder, "", *words, module=("-m", JOBS[job]))
