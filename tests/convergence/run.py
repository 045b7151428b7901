"""Runs the trainings that are not recorded yet, in one launch."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.convergence.experiment import Experiment, Training
from tests.guarantees.launch import launch


def run(
    experiment: Experiment,
    wanted: Sequence[Training],
    out: Path,
    *,
    strategy: str,
    seconds: float,
) -> list[dict[str, Any]]:
    """Return the records of the trainings; those in `out` are not made again.

    Args:
        experiment: One of `EXPERIMENTS`.
        wanted: Its trainings, those of one method together.
        out: A folder; what an interrupted run left there is used.
        strategy: One of the ways to launch with two replicas.
        seconds: After these the launch is ended.

    Raises:
        RuntimeError: Some are missing at the end; the others stay recorded.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / "records.jsonl"
    todo = missing(wanted, read(path, experiment))
    if todo:
        plan = {"experiment": experiment.name, "trainings": todo}
        (out / "plan.json").write_text(json.dumps(plan))
        files = ["--plan", str(out / "plan.json"), "--records", str(path)]
        program = "tests.convergence.worker"
        found = launch(program, strategy, out, *files, seconds=seconds)
        lost = missing(todo, read(path, experiment))
        if lost:
            raise RuntimeError(
                f"{len(lost)} of {len(todo)} trainings are missing, the first is "
                f"{lost[0]}; exit codes {found.codes}, the end of the log:\n"
                f"{found.log[-3000:]}"
            )
    chosen = set(wanted)
    return [each for each in read(path, experiment) if training_of(each) in chosen]


def read(path: Path, experiment: Experiment) -> list[dict[str, Any]]:
    """Return the records of a file.

    Raises:
        ValueError: They come from another experiment, or from other settings.
    """
    lines = path.read_text().splitlines() if path.exists() else []
    records = [json.loads(line) for line in lines]
    if not all(_fits(each, experiment) for each in records):
        raise ValueError(f"{path} holds results of other settings; use another folder")
    return records


def _fits(record: dict[str, Any], experiment: Experiment) -> bool:
    method = record["method"]
    return (
        method in experiment.methods
        and record["settings"] == experiment.settings_of(method).fingerprint()
    )


def missing(
    wanted: Sequence[Training], records: Sequence[dict[str, Any]]
) -> list[Training]:
    """Return the trainings that have no record."""
    done = {training_of(each) for each in records}
    return [each for each in wanted if each not in done]


def training_of(record: dict[str, Any]) -> Training:
    """Return the training that a record belongs to."""
    return Training(record["method"], record["seed"], record["fold"])
