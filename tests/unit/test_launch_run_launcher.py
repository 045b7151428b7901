"""What the launcher passes on to its ranks, and what it says of a failure."""

from signal import SIGINT, SIGTERM, SIGUSR1

import pytest

from tfdist.launch.run.job import Job
from tfdist.launch.run.launcher import Options, _ending, _wait
from tfdist.launch.run.logs import Logs


class Asked:
    """A job that is over after a few looks, and notes what it is asked for."""

    verdict = None
    missing = ()

    def __init__(self):
        self.requests: list[dict] = []
        self._looks = 4

    def ask(self, request):
        self.requests.append(request)

    @property
    def over(self):
        self._looks -= 1
        return self._looks < 0


@pytest.mark.parametrize(
    ("received", "killed"),
    [
        ([SIGTERM], False),
        ([SIGUSR1, SIGTERM], False),  # Slurm's, at the end of the time
        ([SIGTERM, SIGTERM], False),  # `timeout`, to the process and to its group
        ([SIGINT, SIGTERM], False),
        ([SIGINT, SIGINT], True),
        ([SIGTERM, SIGINT], True),
        ([SIGUSR1, SIGTERM, SIGINT], True),
    ],
)
def test_only_a_later_ctrl_c_kills(received, killed):
    job = Asked()
    assert _wait(job, [], received, Options(grace=30.0, stall_timeout=0.0)) == 0
    kill = [{"kill": True}] * killed
    assert job.requests == [{"end": received[0]}, *kill, {"done": True}]


@pytest.fixture
def logs(tmp_path):
    one = Logs(tmp_path, 2)
    yield one
    one.close()


@pytest.fixture
def job(logs):
    return Job(["a", "b"], 0.0, logs.write, logs.record)


def test_ranks_that_never_came_are_named(job, logs):
    job.join(0, 0.0)
    assert "(missing: 1)" in _ending(job, 2, logs, 1).what
    job.join(1, 0.0)
    assert "missing" not in _ending(job, 2, logs, 1).what


def test_a_log_that_says_nothing_more_is_not_read(job, logs):
    job.join(0, 0.0)
    job.receive(0, {"exit": 3, "time": 1.0}, 1.0)
    logs.path(0).unlink()
    assert _ending(job, 2, logs, 3).detail == f"its log: {logs.path(0)}"
