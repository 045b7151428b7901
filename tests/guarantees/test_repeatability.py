"""Three ranks compute the same bits every time they do the same."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.guarantees.launch import launch


def different(digests: Sequence[Sequence[str]]) -> int:
    """Return how many different results all repeats on all ranks gave."""
    return len({digest for rank in digests for digest in rank})


@pytest.mark.parametrize(
    ("name", "repeats"),
    [("thirty", 30), pytest.param("hundred", 100, marks=pytest.mark.full)],
)
def test_repeats_are_identical(name: str, repeats: int, tmp_path: Path) -> None:
    findings = launch("repeatability", "horovod-3", tmp_path, name, seconds=250)
    digests = findings[name]
    assert [len(rank) for rank in digests] == [repeats + 1] * 3
    assert different([rank[:-1] for rank in digests]) == 1
    assert different(digests) == 2, "a start that is one bit higher must show"


@pytest.mark.full
def test_control_separate_reductions_differ(tmp_path: Path) -> None:
    """Fused by chance, Horovod's own reductions of separate tensors round by chance.

    Whether chance strikes within the repeats depends on the machine's load.
    """
    findings = launch("repeatability", "horovod-3", tmp_path, "separate_reductions")
    count = different(findings["separate_reductions"])
    print(f"separate reductions: {count} different sums in 500 repeats")
    if count == 1:
        pytest.skip("chance did not strike in 500 repeats")
    assert count > 1
