"""The suite sees an unsynchronised run: stock Horovod on Keras 3 must fail it."""

from collections.abc import Callable

import pytest

from tests.parallel.compare import Verdict

pytestmark = pytest.mark.timeout(1800)


@pytest.mark.parametrize("mode", ["stock-horovod"])
@pytest.mark.parametrize("row", ["fit_evaluate_predict", "optimizer_adam"])
def test_stock_horovod_is_seen_to_diverge(
    mode: str, row: str, verdict_of: Callable[[str, str], Verdict]
) -> None:
    """`hvd.DistributedOptimizer` reduces nothing under Keras 3, and says nothing."""
    verdict = verdict_of(mode, row)
    assert verdict.kind == "ranks differ", f"{verdict.kind}: {verdict.detail}"
    assert verdict.difference > 1e-3
    assert not verdict.allowed
