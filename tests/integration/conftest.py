"""Launches that a failed test does not leave behind."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.integration.running import Run


@pytest.fixture
def run(tmp_path) -> Iterator[Callable[..., Run]]:
    """Start `tfdist run` with a script; see `Run`."""
    started: list[Run] = []

    def start(script: str, *arguments: str, **options: Any) -> Run:
        started.append(Run(tmp_path, script, *arguments, **options))
        return started[-1]

    yield start
    for one in started:
        one.end()
