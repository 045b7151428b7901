"""Files are written once, by the chief, though all ranks are given the same path."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.guarantees.launch import ROOT, Findings, launch

EPOCHS = 4  # of files.py
SAVED = {
    *(f"epoch{epoch}.keras" for epoch in range(1, EPOCHS + 1)),
    *(
        f"{name}.{kind}"
        for name in ("best", "final")
        for kind in ("keras", "weights.h5")
    ),
}


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    return launch("files", "horovod", tmp_path_factory.mktemp("files"))


@pytest.fixture
def shared(findings: Findings) -> Path:
    return findings.folder / "shared"


def names(paths: list[str]) -> set[str]:
    return {Path(path).name for path in paths}


def test_only_the_chief_writes(findings: Findings) -> None:
    chief, other = findings["written"]
    assert names(chief["changed"]) >= SAVED | {"log.csv"}
    assert other["changed"] == []


def test_nothing_is_missing_or_left_over(findings: Findings, shared: Path) -> None:
    assert findings["written"]
    folders = {"tensorboard", "exported"}  # BackupAndRestore removes its own
    assert {path.name for path in shared.iterdir()} == SAVED | folders | {"log.csv"}


def test_csv_has_a_row_for_each_epoch(findings: Findings, shared: Path) -> None:
    assert findings["written"]
    rows = list(csv.reader((shared / "log.csv").read_text().splitlines()))
    header, *values = rows
    assert header[0] == "epoch"
    assert [row[0] for row in values] == [str(epoch) for epoch in range(EPOCHS)]
    assert all(len(row) == len(header) for row in values)


def test_tensorboard_has_one_writer(findings: Findings, shared: Path) -> None:
    assert findings["written"]
    for part in ("train", "validation"):
        assert len(list((shared / "tensorboard" / part).glob("events*"))) == 1


def test_saved_models_load_without_tfdist(findings: Findings, shared: Path) -> None:
    chief, other = findings["written"]
    assert chief["predictions"] == other["predictions"]
    finished = subprocess.run(
        [sys.executable, "-m", "tests.guarantees.reload", str(shared / "final.keras")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    predictions = json.loads(finished.stdout.splitlines()[-1])
    np.testing.assert_allclose(predictions, chief["predictions"], atol=1e-6)


def test_an_interrupted_run_goes_on_on_every_rank(findings: Findings) -> None:
    chief, other = findings["restored"]
    assert chief["interruption"] == other["interruption"] == "InterruptedError"
    assert chief["kept"]
    assert chief["epochs"] == other["epochs"] == [2, 3]
    assert chief["weights"] == other["weights"]
    assert other["changed"] == []


def test_control_a_second_writer_would_be_noticed(findings: Findings) -> None:
    for rank, found in enumerate(findings["control"]):
        assert f"{rank}.keras" in names(found["changed"])
