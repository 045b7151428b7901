"""Ranks that do different things are told so, all of them, within 30 seconds."""

import re

import pytest

from tests.guarantees.launch import Findings, launch_all

LIMIT = 30.0  # seconds
# What each rank's message has to name.
DIFFERENCES = {
    "other_model": r"rank 0: \(4, 3\) float32; rank 1: \(4, 4\) float32",
    "other_dtype": r"rank 0: \(4, 3\) float32; rank 1: \(4, 3\) float64",
    "other_optimizer": r"\['optimizer'\]: rank 0: SGD; rank 1: Lion",
    "other_epochs": r"\['epochs'\]: rank 0: 2; rank 1: 3",
    "other_steps": r"cardinality 2; rank 1: .*cardinality 3",
    "other_order": r"rank 0: .*seeds \[\(\d+, 1\)\]; rank 1: .*seeds \[\(\d+, 2\)\]",
    "other_records": r"fit:\ndetails\['x: seed'\]: rank 0: 5; rank 1: 6\.\nHINT",
    "other_call": r"rank 0: evaluate; rank 1: predict",
    "other_compressor": r"\['compressor'\]: rank 0: .*0\.1.*rank 1: .*0\.2",
    "other_rate": r"\['factor'\]: rank 0: 1.0 to 2.0; rank 1: 1.0 to 4.0",
    "other_telemetry": r"\['every'\]: rank 0: 10; rank 1: 11",
    "other_precision": r"rank 0: mixed_bfloat16 for 3 .*rank 1: float32 for 3",
}
# Those that leave the ranks in step share a launch; an aborted collective ends it.
TOGETHER = [*DIFFERENCES, "extra_model", "predicts_outside", "evaluates_alone"]
WAITING = ["evaluates_in_callback", "unknown_steps", "raises"]
ELSEWHERE = [
    ("horovod-mpi", ("other_model", "evaluates_alone")),
    ("multiworker", ("other_model", "extra_model", "raises_uncaught")),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Findings]:
    """Run everything; return the findings by way of starting and measurement."""
    launches = [("horovod", tuple(TOGETHER))]
    launches += [("horovod", (name,)) for name in WAITING]
    launches += ELSEWHERE
    found = launch_all(
        [
            ("disagreement", way, tmp_path_factory.mktemp("run"), *names)
            for way, names in launches
        ],
        seconds=200,
    )
    return {
        (way, name): findings
        for (way, names), findings in zip(launches, found, strict=True)
        for name in names
    }


def told(outcome: dict, kind: str, *patterns: str) -> None:
    """Assert that a rank was told by this kind of error, in time, what is wrong."""
    print(f"{outcome['kind']} after {outcome['seconds']:.1f} s")
    assert outcome["kind"] == kind, outcome["text"]
    for pattern in (*patterns, "HINT: "):
        assert re.search(pattern, outcome["text"], re.DOTALL), outcome["text"]
    assert outcome["seconds"] < LIMIT


@pytest.mark.parametrize("name", DIFFERENCES)
def test_different_work_is_named_on_every_rank(name: str, runs: dict) -> None:
    for outcome in runs["horovod", name][name]:
        told(outcome, "RankMismatchError", DIFFERENCES[name])


@pytest.mark.parametrize("way", ["horovod-mpi", "multiworker"])
def test_different_models_elsewhere(way: str, runs: dict) -> None:
    for outcome in runs[way, "other_model"]["other_model"]:
        told(outcome, "RankMismatchError", DIFFERENCES["other_model"])


@pytest.mark.parametrize("way", ["horovod", "horovod-mpi"])
def test_evaluation_after_the_other_rank_ended(way: str, runs: dict) -> None:
    outcome = runs[way, "evaluates_alone"].of(0, "evaluates_alone")
    told(outcome, "RankLostError", "rank 1 has ended", "rank 0 waits .*'evaluate'")


def test_evaluation_in_the_middle_of_the_others_training(runs: dict) -> None:
    name = "evaluates_in_callback"
    for outcome in runs["horovod", name][name]:
        told(
            outcome, "RankMismatchError", "rank 0 waits .*'evaluate'", "rank 1 .*'fit'"
        )


def test_data_that_end_sooner_on_one_rank(runs: dict) -> None:
    for outcome in runs["horovod", "unknown_steps"]["unknown_steps"]:
        told(outcome, "RankMismatchError", "rank 0", "rank 1")


def test_an_exception_on_one_rank(runs: dict) -> None:
    survivor, culprit = runs["horovod", "raises"]["raises"]
    assert culprit["kind"] == "ZeroDivisionError"
    told(survivor, "RankLostError", "rank 1 has ended")


def test_an_uncaught_exception_of_one_worker(runs: dict) -> None:
    """No launcher ends the other worker of TF_CONFIG: it has to find out by itself."""
    findings = runs["multiworker", "raises_uncaught"]
    assert "ZeroDivisionError" in findings.log
    told(findings.of(0, "raises_uncaught"), "RankLostError", "rank 1")


@pytest.mark.parametrize("way", ["horovod", "multiworker"])
def test_control_an_extra_model_is_no_disagreement(way: str, runs: dict) -> None:
    first, second = runs[way, "extra_model"]["extra_model"]
    assert first == second
    assert first["loss"][1] < first["loss"][0]


def test_a_model_of_no_strategy_stalls_nobody(runs: dict) -> None:
    first, second = runs["horovod", "predicts_outside"]["predicts_outside"]
    told(first["outcome"], "ValueError", "outside the strategy's scope")
    assert first["loss"] == second["loss"]


def test_no_rank_had_to_be_ended(runs: dict) -> None:
    ended = {key for key, findings in runs.items() if None in findings.codes}
    assert not ended
