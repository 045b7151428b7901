"""Guards shared by all tests."""

import os
from collections.abc import Iterator

import pytest

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
