"""Every example once an epoch whatever the ranks' seeds; different draws from one."""

import pytest

from tests.guarantees.launch import Findings, launch


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    return launch("seeds", "horovod", tmp_path_factory.mktemp("seeds"))


@pytest.mark.parametrize("name", ["shuffled_arrays", "unseeded_arrays"])
def test_every_example_once_an_epoch(name: str, findings: Findings) -> None:
    for epochs in findings[name]:
        assert epochs == [[1] * 23] * 2


def test_control_ranks_in_different_orders_overlap(findings: Findings) -> None:
    for epochs in findings["differently_shuffled"]:
        for times_seen in epochs:
            assert sum(times_seen) == 23
            assert {0, 2} <= set(times_seen)


@pytest.mark.parametrize("name", ["dropout", "noise"])
def test_draws_differ_between_replicas_and_repeat(
    name: str, findings: Findings
) -> None:
    first, second = findings[name]
    for rank in (first, second):
        once, again, otherwise = rank
        assert len(once) == 2  # steps
        assert once[0] != once[1]
        assert once == again
        assert once != otherwise
    assert all(a != b for a, b in zip(first[0], second[0], strict=True))


def test_draws_differ_in_loops_of_the_users_own(findings: Findings) -> None:
    once, again, otherwise = findings["dropout_in_a_loop"][0]
    assert once == again
    assert once != otherwise
    assert once[0] != once[1], "both replicas drop the same units"
