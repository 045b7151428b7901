"""The comparison sees one bit between ranks, and a small difference from a run."""

from dataclasses import replace

import numpy as np
import pytest

from tests.parallel.compare import Outcome, difference, judge
from tests.parallel.registry import Results, Row

ROW = Row("row", "a row", "group", lambda setting: {})


def outcome(**results: float) -> Outcome:
    values: Results = {key: np.float64(value) for key, value in results.items()}
    return Outcome("ok", "", 0.0, values)


def failed(status: str, error: str) -> Outcome:
    return Outcome(status, error, 0.0, {})


def test_equal_runs_are_equal() -> None:
    run = outcome(weights=1.0)
    assert judge(ROW, [run, run], outcome(weights=1.0 + 1e-6)).allowed


@pytest.mark.parametrize(
    ("ranks", "kind"),
    [
        ([outcome(a=1.0), outcome(a=np.nextafter(1.0, 2.0))], "ranks differ"),
        ([outcome(a=1.0), outcome(a=1.0, b=1.0)], "ranks differ"),
        ([outcome(a=0.0), outcome(a=-0.0)], "ranks differ"),
        ([outcome(a=1.0001), outcome(a=1.0001)], "differs"),
        ([outcome(a=np.nan)], "differs"),
        ([outcome(b=1.0)], "differs"),
        ([Outcome("ok", "", 0.0, {"a": np.ones(2)})], "differs"),
        ([replace(outcome(a=1.0), results={"replicas/gap": np.float64(1e-9)})], ""),
        ([outcome(a=1.0), failed("error", "ValueError: no")], "error"),
        ([outcome(a=1.0), failed("refused", "ValueError: HINT: no")], "error"),
        ([failed("refused", "ValueError: HINT: no")], "refused"),
        ([failed("hangs", "")], "hangs"),
    ],
)
def test_unequal_runs_are_seen(ranks: list[Outcome], kind: str) -> None:
    verdict = judge(ROW, ranks, outcome(a=1.0))
    assert verdict.kind == (kind or "ranks differ")
    assert not verdict.allowed


def test_a_refusal_counts_only_where_the_row_allows_it() -> None:
    ranks = [failed("refused", "ValueError: HINT: another way")] * 2
    assert judge(replace(ROW, may_refuse=True), ranks, outcome(a=1.0)).allowed
    assert not judge(ROW, ranks, outcome(a=1.0)).allowed


def test_an_overflow_must_look_alike() -> None:
    infinite, nan = np.array([np.inf, 1.0]), np.array([np.nan, 1.0])
    assert difference(infinite, infinite) == 0.0
    assert difference(nan, nan) == 0.0
    assert difference(infinite, -infinite) == np.inf
    assert difference(infinite, nan) == np.inf


def test_differences_are_relative_to_large_values() -> None:
    assert difference(np.array(1e6 + 1), np.array(1e6)) == pytest.approx(1e-6)
    assert difference(np.array(1e-3), np.array(0.0)) == pytest.approx(1e-3)
