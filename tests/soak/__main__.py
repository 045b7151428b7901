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
import re
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.soak.killer import INTERVAL, JOBS, Killer, Round, make_run

STRATEGIES = {
    "gloo": ("-np", "2", "--strategy", "horovod"),
    "mpi": ("-np", "2", "--strategy", "horovod", "--controller", "mpi"),
    "multiworker": ("-np", "2", "--strategy", "multiworker"),
    "default": ("-np", "1"),
}
_HASH = re.compile(r"^hash (\w+)$", re.MULTILINE)


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
    ranks = 1 if strategy == "default" else 2
    run = make_run(folder, job, *STRATEGIES[strategy])
    seconds = 0.3 if job == "counting" else 4.0
    try:
        killer = Killer(
            run, ranks, draws, seconds, lambda text: print(text, flush=True)
        )
        played = killer.play(kills)
        code, _, err = run.finish()
        last = [run.log(rank, played.kills) for rank in range(ranks)]
        hashes = [hash for log in last for hash in _HASH.findall(log)]
        played.hash = (
            hashes[0] if len(set(hashes)) == 1 and len(hashes) == ranks else ""
        )
        checks = {
            f"exit code {code}: {err[-2000:]}": code != 0,
            f"processes are left: {run.survivors()}": bool(run.survivors()),
            f"a start failed by itself: {err[-2000:]}": played.died_by_itself(),
            f"checkpoints were lost: {played.lost()}": max(played.lost(), default=0)
            > 0,
            f"steps repeated: {played.repeated()}": max(played.repeated(), default=0)
            > 2 * INTERVAL,
            f"another result: {last}": not played.hash
            or (golden is not None and played.hash != golden.hash),
        }
    except TimeoutError as error:
        return Round(), str(error)
    finally:
        run.end()
    return played, "; ".join(text for text, is_so in checks.items() if is_so)


if __name__ == "__main__":
    sys.exit(main())
