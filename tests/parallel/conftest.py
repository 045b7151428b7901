"""One launch for each mode, with exactly the rows that the session selected."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.parallel.compare import Verdict
from tests.parallel.launch import launch_all
from tests.parallel.matrix import verdict
from tests.parallel.modes import REFERENCE
from tests.parallel.registry import load_rows


def selected_rows(items: list[pytest.Item]) -> dict[str, list[str]]:
    """Return mode -> rows of the tests that will run, the reference first."""
    rows_of: dict[str, list[str]] = {REFERENCE: []}
    for item in items:
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        if not {"mode", "row"} <= parameters.keys():
            continue
        row = parameters["row"]
        for each in (REFERENCE, parameters["mode"]):
            rows = rows_of.setdefault(each, [])
            if row not in rows:
                rows.append(row)
    return rows_of


@pytest.fixture(scope="session")
def runs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Run everything once; return the folder of the results."""
    out = tmp_path_factory.mktemp("matrix")
    launch_all(selected_rows(request.session.items), out)
    return out


@pytest.fixture
def verdict_of(runs: Path) -> Callable[[str, str], Verdict]:
    """Return the function that compares one mode's run of one row."""
    rows = load_rows()
    return lambda mode, row: verdict(mode, rows[row], runs)
