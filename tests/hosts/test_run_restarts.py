"""`tfdist run --min-np`: a host that is lost is left out, and taken back later."""

import os
import sys
import time
from contextlib import suppress

import pytest

from tests.hosts import jobs
from tests.hosts.bed import hosts
from tests.integration.running import wait_until

pytestmark = [
    pytest.mark.full,
    pytest.mark.timeout(600),
    pytest.mark.failure(32),
]
SECONDS = 120.0

# Ranks run until the test lets them go, or one of them die.
OBEDIENT = """
import os, sys, time
from tfdist import cluster
from tfdist.coordination import progress
restarts = os.environ["TFDIST_RESTARTS"]
progress.reach(int(restarts))  # each start gets a step further
print(f"here {cluster.rank()} of {cluster.size()}", flush=True)
while not os.path.exists(f"end-{restarts}"):
    if os.path.exists(f"fail-{restarts}") and cluster.rank() == 1:
        sys.exit(3)
    time.sleep(0.05)
"""


class Job:
    """A `tfdist run` on h1 over all hosts of a bed, with its logs in the bed's folder.

    Args:
        bed: The hosts; each has one slot.
        *options: Of `tfdist run`.
    """

    def __init__(self, bed, *options: str) -> None:
        self.logs = bed.folder / "logs"
        self._said = b""
        (bed.folder / "script.py").write_text(OBEDIENT)
        words = ["run", "-H", bed.slots(), "--log-dir", self.logs, *options]
        words += ["--max-restarts", "3", "--grace", "5", "script.py"]
        command = [sys.executable, "-m", "tfdist.launch", *words]
        self.process = bed.start("h1", command, jobs.ENVIRONMENT, folder=bed.folder)
        os.set_blocking(self.process.stdout.fileno(), False)

    def output(self) -> str:
        """Return all that it has said so far."""
        with suppress(BlockingIOError):
            while chunk := os.read(self.process.stdout.fileno(), 1 << 16):
                self._said += chunk
        return self._said.decode()

    def wait_for(self, text: str) -> None:
        wait_until(lambda: text in self.output(), SECONDS, self.output)

    def wait_for_ranks(self, attempt: int, size: int) -> None:
        """Wait until all ranks of a start run."""
        folder = self.logs / f"attempt-{attempt}"

        def all_here() -> bool:
            texts = [path.read_text() for path in folder.glob("rank-*.log")]
            return sum(f"of {size}\n" in text for text in texts) == size

        wait_until(all_here, SECONDS, self.output)


@pytest.mark.parametrize("strategy", ["multiworker", "horovod"])
def test_a_lost_host_is_left_out_and_taken_back(strategy):
    with hosts(3, bare=True) as bed:
        job = Job(bed, "--strategy", strategy, "--min-np", "2")
        job.wait_for_ranks(0, 3)
        bed.lose("h2")
        began = time.monotonic()
        job.wait_for("rank 1 of 3 on h2 does not answer")
        print(f"noticed and ended {time.monotonic() - began:.0f} s after the loss")
        job.wait_for_ranks(1, 2)
        print(f"running again {time.monotonic() - began:.0f} s after the loss")
        assert "restart 1 with 2 ranks on h1, h3; without h2: h2 cannot" in job.output()
        bed.restore("h2")
        (bed.folder / "fail-1").touch()
        job.wait_for_ranks(2, 3)
        assert "restart 2 with 3 ranks on h1, h2, h3\n" in job.output()
        (bed.folder / "end-2").touch()
        assert job.process.wait(SECONDS) == 0, job.output()


def test_too_few_hosts_end_the_job():
    with hosts(2, bare=True) as bed:
        job = Job(bed, "--strategy", "multiworker", "--hosts-timeout", "5")
        job.wait_for_ranks(0, 2)
        bed.lose("h2")
        assert job.process.wait(SECONDS) == 69, job.output()
        said = job.output()
        assert "no restart within 5 s: 1 of at least 2 ranks have a host" in said
