"""What a strategy offers for loops of the user's own has the numbers of one process."""

import numpy as np
import pytest

from tests.guarantees.launch import Findings, launch_all

WAYS = ("horovod", "multiworker")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Findings]:
    launches = [("loops", way, tmp_path_factory.mktemp(way)) for way in WAYS]
    return dict(zip(WAYS, launch_all(launches), strict=True))


@pytest.fixture(params=WAYS)
def findings(request: pytest.FixtureRequest, runs: dict[str, Findings]) -> Findings:
    return runs[request.param]


def test_reductions(findings: Findings) -> None:
    # Replica 0 holds 1 and [1, 2], replica 1 holds 2 and [2, 4].
    expected = {
        "sum": 3.0,
        "mean": 1.5,
        "sum of vectors": [3.0, 6.0],
        "sum of rows": 9.0,
        "mean of rows": 2.25,
        "gathered": [1.0, 2.0, 2.0, 4.0],
        "eager sum": [3.0, 6.0],
        "eager gathered": [1.0, 2.0, 2.0, 4.0],
    }
    assert findings["reductions"] == [expected] * 2


def test_replica_context(findings: Findings) -> None:
    types = ("float16", "bfloat16", "float64", "int32", "int64")
    expected = {name: [3.0] for name in types} | {"rows": [[1.0, 2.0], [1.0, 2.0]]}
    assert findings["inside_replica"] == [expected] * 2


def test_uneven_gather(findings: Findings) -> None:
    assert findings["uneven_gather"] == [[[1], [2], [2]]] * 2


def test_distributed_dataset(findings: Findings) -> None:
    batches = [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10]]
    assert findings["distributed_dataset"] == [batches] * 2


def test_datasets_from_function(findings: Findings) -> None:
    both = [1, 1, 2, 2]
    assert findings["equal_pipelines"] == [[both, both]] * 2
    # Pipeline 1 has ended; its replica goes on with empty batches.
    assert findings["unequal_pipelines"] == [[both, [1, 1], [1, 1]]] * 2


def test_training(findings: Findings) -> None:
    first, second = findings["training"]
    assert first == second, "the ranks have different weights"
    distributed, alone = first
    for ours, reference in zip(distributed, alone, strict=True):
        np.testing.assert_allclose(ours, reference, atol=1e-5)


def test_control_a_loop_without_tfdist_differs(findings: Findings) -> None:
    """Clipped before the sum and without shares, the same loop has other weights."""
    distributed, alone = findings["plain_training"][0]
    pairs = zip(distributed, alone, strict=True)
    assert max(np.abs(np.subtract(a, b)).max() for a, b in pairs) > 1e-3
