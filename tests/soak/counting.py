"""Counts instead of training: what is killed and started again is the same, and quick.

Every rank writes its count after each step, and goes on where all of them have been;
before a step, ranks wait for each other, as in a collective.
"""

import os
import time
from pathlib import Path

from tests.recovery.told import Teller
from tfdist import cluster

STEPS = 30


def main() -> None:
    rank, size = cluster.rank(), cluster.size()
    restarts = int(os.environ["TFDIST_RESTARTS"])
    teller = Teller(Path.cwd(), restarts, rank)
    teller.tell(0, "start")
    counts = [Path(f"count-{number}") for number in range(size)]
    step = min(int(each.read_text()) if each.exists() else 0 for each in counts)
    print(f"resumed {step}", flush=True)
    while step < STEPS:
        meet(f"{restarts}-{step}", rank, size)
        step += 1
        new = Path(f"new-{rank}")
        new.write_text(str(step))
        new.replace(counts[rank])
        teller.tell(step, "training")
    teller.tell(step, "end")
    meet(f"{restarts}-end", rank, size)
    print("hash " + "".join(each.read_text() for each in counts), flush=True)


def meet(name: str, rank: int, size: int) -> None:
    """Wait until all ranks are here."""
    Path(f"{name}-{rank}").touch()
    while not all(Path(f"{name}-{number}").exists() for number in range(size)):
        time.sleep(0.005)


main()
