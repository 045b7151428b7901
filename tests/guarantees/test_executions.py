"""`steps_per_execution` with a remainder runs every time, as single steps do."""

from pathlib import Path

import pytest

from tests.guarantees.launch import launch

LONG = [
    pytest.param("horovod", "hundred", 100, marks=pytest.mark.full),
    pytest.param("horovod-mpi", "twenty", 20, marks=pytest.mark.full),
]


@pytest.mark.parametrize(("way", "name", "count"), [("horovod", "ten", 10), *LONG])
def test_no_run_fails(way: str, name: str, count: int, tmp_path: Path) -> None:
    findings = launch("executions", way, tmp_path, name, seconds=280)
    first, second = findings[name]
    assert first == second
    assert len(first["losses"]) == count
    assert first["losses"] == pytest.approx(first["stepwise"], rel=1e-5)
    assert first["difference"] < 1e-5
    assert first["rows"] == [48] * len(first["rows"])
    # What cannot fail: the weights do move from run to run.
    assert first["losses"][-1] < first["losses"][0] / 2
