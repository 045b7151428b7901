"""Who a process is, where processes meet, and which of them shows progress."""

import re

import pytest

from tests.guarantees.launch import RANKS, Findings, launch_all

REPLICAS = {"default": 1, "mirrored": 2, "horovod": 2, "multiworker": 2}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Findings]:
    launches = [("membership", way, tmp_path_factory.mktemp(way)) for way in REPLICAS]
    return dict(zip(REPLICAS, launch_all(launches), strict=True))


@pytest.mark.parametrize("way", REPLICAS)
def test_identity_is_right_before_and_after_the_strategy(way: str, runs: dict) -> None:
    size = RANKS.get(way, 1)
    for rank, found in enumerate(runs[way]["identity"]):
        identity = {
            "rank": rank,
            "size": size,
            "local_rank": rank,  # all of them on this machine
            "is_chief": rank == 0,
        }
        assert found["early"] == identity
        assert found["connected"] == identity
        assert found["replicas"] == REPLICAS[way]


@pytest.mark.parametrize("way", REPLICAS)
def test_nobody_leaves_a_barrier_before_all_came(way: str, runs: dict) -> None:
    ranks = runs[way]["barrier"]
    assert min(each["left"] for each in ranks) >= max(each["came"] for each in ranks)


@pytest.mark.parametrize("way", ["horovod", "multiworker"])
def test_different_barriers_are_an_error(way: str, runs: dict) -> None:
    for outcome in runs[way]["different_barriers"]:
        assert outcome["kind"] == "RankMismatchError"
        assert "rank 0: barrier 'place 0'; rank 1: barrier 'place 1'" in outcome["text"]
        assert "HINT: " in outcome["text"]


@pytest.mark.parametrize("way", REPLICAS)
def test_only_the_chief_shows_progress(way: str, runs: dict) -> None:
    assert runs[way]["progress"]
    log = runs[way].log
    for epoch in (1, 2, 3):
        assert len(re.findall(f"Epoch {epoch}/3", log)) == 1
    # The script itself prints on every rank: the log would show another bar.
    assert log.count("printed by the script") == RANKS.get(way, 1)
