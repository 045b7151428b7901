"""Hosts are built where that is possible, and tests skip with the reason elsewhere."""

import pytest

from tests.hosts.bed import hosts, missing


@pytest.fixture(scope="session", autouse=True)
def can_build_hosts():
    reason = missing()
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture
def bed(can_build_hosts):
    """Two hosts, h1 and h2, of this test alone."""
    with hosts(2) as two:
        yield two


@pytest.fixture(scope="module")
def shared_bed(can_build_hosts):
    """Two hosts for tests that leave them as they are."""
    with hosts(2) as two:
        yield two
