"""Guards shared by all tests."""

import os
import threading
import time
from collections.abc import Iterator

import pytest

from tests.recovery.failures import FAILURES

LAUNCHER_VARIABLES = ("TF_CONFIG", "HOROVOD_", "OMPI_", "PMI_", "PMIX_", "SLURM_")


def _launcher_environment() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith(LAUNCHER_VARIABLES)
    }


@pytest.fixture(autouse=True)
def no_leaked_environment() -> Iterator[None]:
    """Fail a test that leaves a launcher's variable behind for the next one."""
    before = _launcher_environment()
    yield
    after = _launcher_environment()
    assert after == before, "the test changed the launcher's environment variables"


@pytest.fixture(autouse=True)
def no_leaked_thread() -> Iterator[None]:
    """Fail a test that leaves a thread of tfdist behind for the next one."""
    before = set(threading.enumerate())
    yield
    own = [t for t in threading.enumerate() if t.name.startswith("tfdist")]
    left = [thread for thread in own if thread not in before]
    until = time.monotonic() + 1.0
    for thread in left:
        thread.join(max(0.0, until - time.monotonic()))
    assert not [t.name for t in left if t.is_alive()], "the test left threads behind"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let a report say which failures a test proves; see tests/recovery/table.py."""
    for item in items:
        numbers = {n for mark in item.iter_markers("failure") for n in mark.args}
        if not numbers <= set(FAILURES):
            raise pytest.UsageError(f"{item.nodeid} proves unknown failures {numbers}")
        item.user_properties += [("failure", number) for number in sorted(numbers)]
