"""Kills ranks of small trainings at random until enough have died.

    python -m tests.soak --kills 200
    python -m tests.soak --kills 200 --job counting    # the launcher alone: minutes

One training after the other, of two ranks, is killed with SIGKILL at random moments
and started again by `tfdist run`. Of each it is asserted that every restart went on
from the newest checkpoint or a later one, repeated no more than two intervals (one may
have been on its way to the disk), ended with the hash of weights and history that an
undisturbed training has, and left no process. The last lines say what was done; exit
code 1: something was wrong.
"""

import argparse
import functools
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.integration.running import Run
from tests.recovery.launched import INTERVAL, STRATEGIES, common_hash, processes
from tests.soak.killer import JOBS, Killer, Round, make_run


def main() -> int:
    parser = argparse.ArgumentParser("tests.soak", description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--strategy", choices=STRATEGIES, default="gloo")
    parser.add_argument("--job", choices=JOBS, default="training")
    parser.add_argument("--seed", type=int, help="of the kills; default: a random one")
    parser.add_argument("--minutes", type=float, help="no further kill after so long")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else None
    seed = options.seed if seed is None else seed
    print(f"seed {seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="tfdist-soak-"))
    wrong = soak(
        folder, options.strategy, options.kills, seed, options.minutes, options.job
    )
    if wrong:
        print(f"WRONG: {wrong}; all files: {folder}", flush=True)
        return 1
    shutil.rmtree(folder)
    return 0


def soak(
    folder: Path,
    strategy: str,
    kills: int,
    seed: int,
    minutes: float | None = None,
    job: str = "training",
) -> str:
    """Run trainings until so many starts were killed; return what is wrong, or "".

    Args:
        folder: Where each training has a folder.
        strategy: A key of `STRATEGIES`.
        kills: How many.
        seed: Of who is killed, and when.
        minutes: After which nobody is killed any more.
        job: A key of `JOBS`.
    """
    draws = random.Random(seed)
    play = functools.partial(play_job, job, strategy, draws)
    until = time.monotonic() + 60 * (minutes or 1e9)
    undisturbed, wrong = play(folder / "golden", 0)
    rounds: list[Round] = []
    done = 0
    while not wrong and done < kills and time.monotonic() < until:
        place = folder / f"job-{len(rounds)}"
        played, wrong = play(place, kills - done, undisturbed)
        rounds.append(played)
        done += played.kills
        if not wrong:
            shutil.rmtree(place)
    repeated = [steps for one in rounds for steps in one.repeated()]
    seconds = [time for one in rounds for time in one.restart_seconds()]
    print(f"{done} kills in {len(rounds)} jobs ({job}) under {strategy}, seed {seed}")
    if seconds and repeated:
        print(
            f"steps repeated by a restart: median {statistics.median(repeated):g}, at "
            f"most {max(repeated)} (interval {INTERVAL}); from a start to its first "
            f"step: median {statistics.median(seconds):.1f} s",
            flush=True,
        )
    return wrong


def play_job(
    job: str,
    strategy: str,
    draws: random.Random,
    folder: Path,
    kills: int,
    golden: Round | None = None,
) -> tuple[Round, str]:
    """Run one job to its end; return what was done, and what is wrong with it."""
    ranks = processes(strategy)
    run = make_run(folder, job, *STRATEGIES[strategy])
    seconds = 0.3 if job == "counting" else 4.0
    killer = Killer(run, ranks, draws, seconds, lambda text: print(text, flush=True))
    try:
        played = killer.play(kills)
        played.hash = common_hash([run.log(n, played.kills) for n in range(ranks)])
        return played, "; ".join(_wrong_with(run, played, golden))
    except TimeoutError as error:
        return Round(), str(error)
    finally:
        run.end()


def _wrong_with(run: Run, played: Round, golden: Round | None) -> Iterator[str]:
    code, _, err = run.finish()
    if code:
        yield f"exit code {code}"
    if left := run.survivors():
        yield f"processes are left: {left}"
    if played.died_by_itself():
        yield f"a start failed that was not killed: {err}"
    if max(played.lost(), default=0) > 0:
        yield f"checkpoints were lost: {played.lost()}"
    if max(played.repeated(), default=0) > 2 * INTERVAL:
        yield f"too many steps were repeated: {played.repeated()}"
    if not played.hash or (golden is not None and played.hash != golden.hash):
        yield f"another result: {played.hash!r}"


if __name__ == "__main__":
    sys.exit(main())
