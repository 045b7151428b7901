"""How often the ranks communicate in one training step, and for what."""

import re
from collections import Counter

import pytest

from tests.guarantees.launch import Findings, launch

LANE = re.compile(r"tfdist\.(\w+)\.(\w+)")
PLAIN = {"gradients sum": 1, "logs sum": 1}
# What else travels, and why.
EXTRA = {
    "plain": {},
    "many_variables": {},
    "many_metrics": {},
    "arrays": {},
    "several_steps": {},
    "accumulation": {},
    "uneven": {"control sum": 1},  # how many examples each rank has
    "loss_scaling": {"control sum": 1},  # whether the gradients are finite everywhere
    "two_embeddings": {"sparse values": 1, "sparse indices": 1},  # of both together
}


@pytest.fixture(scope="module")
def horovod(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    return launch("collectives", "horovod", tmp_path_factory.mktemp("horovod"))


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    return launch("collectives", "mirrored", tmp_path_factory.mktemp("mirrored"))


def purposes(collectives: list[dict]) -> Counter:
    """Count the collectives by lane and kind; a name that tells none is a failure."""
    found = [LANE.search(each["name"]) for each in collectives]
    assert None not in found, collectives
    return Counter(f"{match[1]} {match[2]}" for match in found)


@pytest.mark.parametrize("case", EXTRA)
def test_each_collective_has_its_reason(case: str, horovod: Findings) -> None:
    for collectives in horovod[case]:
        assert purposes(collectives) == PLAIN | EXTRA[case]


def test_accumulation_communicates_only_under_its_condition(horovod: Findings) -> None:
    def conditions(case: str, lane: str) -> list[int]:
        return [
            sum(caller.endswith("If") for caller in each["within"])
            for each in horovod[case][0]
            if f"tfdist.{lane}" in each["name"]
        ]

    assert conditions("plain", "gradients") == [0]
    assert conditions("accumulation", "gradients") == [1]


@pytest.mark.parametrize("case", ["many_variables", "many_metrics"])
def test_mirrored_needs_no_more_either(case: str, mirrored: Findings) -> None:
    (plain,), (more,) = mirrored["plain"], mirrored[case]
    # One buffer of gradients and one of logs, started by each of the two replicas.
    assert Counter(each["op"] for each in plain) == {"CollectiveReduceV2": 2 * 2}
    assert len(more) == len(plain)


@pytest.mark.parametrize("way", ["horovod", "mirrored"])
def test_control_sees_separate_reductions(
    way: str, request: pytest.FixtureRequest
) -> None:
    """The count is one that a reduction for each of the 26 variables would raise."""
    findings = request.getfixturevalue(way)
    replicas_here = 2 // findings.ranks
    assert len(findings["separate"][0]) == 26 * replicas_here
