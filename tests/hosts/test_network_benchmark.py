"""`python -m benchmarks.network` as it is started by hand, with few of its methods."""

import json
import subprocess
import sys

import pytest

from tests.hosts.bed import ROOT

METHODS = ("tfdist-powersgd", "horovod", "multiworker")


@pytest.mark.full
@pytest.mark.timeout(600)
def test_each_kind_of_program_is_measured_and_reported(tmp_path):
    words = ["--quick", "--rates", "1Gbit", "--methods", ",".join(METHODS)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.network", *words, "--out", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=540,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    measured = {row["method"]: row for row in rows}
    assert {"one", "apart", *METHODS} <= measured.keys()
    for name in METHODS:
        row = measured[name]
        assert row["busy"] > 0 and min(row["seconds"]) > 0
        # What the interface has counted is the formula's, with headers and control.
        assert 1.0 <= row["counted"] / row["formula"] < 1.5
    report = (tmp_path / "report.md").read_text()
    assert "PowerSGD: at most 1.5 x the step of one process" in report
    assert (tmp_path / "report.png").stat().st_size > 10_000
