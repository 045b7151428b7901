"""The report of benchmarks/network from made-up measurements."""

import dataclasses

import pytest

from benchmarks.network import plot, report, results, targets, verdicts
from benchmarks.network.results import Failure, Results, Row

SHAPES = [[1024, 1024], [1024]] * 12
DENSE = 4.0 * 12 * 1025 * 1024


def row(method, rate, milliseconds, sent=DENSE):
    seconds = [milliseconds / 1e3 * factor for factor in (0.9, 1.0, 1.1)]
    return Row("mlp", method, rate, seconds, 1.01 * sent, sent, 20, 0.055)


def measured(**changes) -> Results:
    """A run that meets every target, or misses what is changed."""
    steps = {
        "tfdist": 430,
        "tfdist-fp16": 250,
        "tfdist-int8": 180,
        "tfdist-powersgd": 60,
        "tfdist-randomk": 55,
        "horovod": 480,
        "ddp": 470,
        "ddp-fp16": 260,
        "ddp-powersgd": 90,
    } | changes
    found = Results(
        hosts=2,
        machine={"processor": "any", "cores": 2, "load before": 0.1, "versions": {}},
        raw={"1Gbit": 0.95e9, "unlimited": 6e9},
        stages={"mlp": {"forward": 0.015, "tfdist-powersgd": 0.02}},
        shapes={"mlp": SHAPES},
    )
    found.rows = [row("one", "", 50, 0.0), row("apart", "", 52, 0.0)]
    for rate, factor in (("1Gbit", 1.0), ("unlimited", 0.0)):
        for name, step in steps.items():
            found.rows.append(row(name, rate, factor * step + (1 - factor) * 70))
    return found


def outcome(found: Results) -> dict[str, bool | None]:
    return {target.what: target.met for target in targets.targets(found)}


def test_targets_that_are_met():
    assert set(outcome(measured()).values()) == {True}


@pytest.mark.parametrize(
    "method, slow, what",
    [
        ("tfdist", 475, "dense: no slower than PyTorch DDP in float32"),
        ("tfdist", 475, "dense: at most 1.05 x (forward pass + bytes at TCP's rate)"),
        ("tfdist-fp16", 261, "fp16: faster than DDP's fp16"),
        ("tfdist-int8", 261, "int8: faster than DDP's fp16"),
        ("tfdist-powersgd", 76, "PowerSGD: at most 1.5 x the step of one process"),
        ("tfdist-powersgd", 97, "PowerSGD: 5 x faster than Horovod's dense step"),
        ("tfdist-randomk", 61, "random-k: no slower than PowerSGD"),
    ],
)
def test_targets_that_are_missed(method, slow, what):
    found = measured(**{method: slow})
    assert outcome(found)[what] is False
    text = report.report(found)
    assert "**not met**" in text
    assert f"- {what}: {slow} ms = " in text
    assert "; a rank's threads compute 55 ms\n" in text


def test_a_target_without_its_peer_is_not_measured():
    found = measured()
    found.rows = [row for row in found.rows if not row.method.startswith("ddp")]
    assert outcome(found)["fp16: faster than DDP's fp16"] is None
    assert outcome(found)["random-k: no slower than PowerSGD"] is True
    assert "not measured" in report.report(found)


def test_no_compressor_may_be_slower_on_a_slow_link():
    found = measured()
    found.raw["100Mbit"] = 98e6
    found.rows += [row("tfdist", "100Mbit", 4000), row("tfdist-int8", "100Mbit", 4001)]
    assert outcome(found)["tfdist-int8: no slower than dense at 100Mbit"] is False


def test_compression_pays_or_it_does_not():
    assert "pays, 7.8 x" in verdicts.verdict(measured(), "mlp", "1Gbit")
    assert "do not compress" in verdicts.verdict(measured(), "mlp", "unlimited")
    assert verdicts.verdict(measured(), "resnet", "1Gbit") == "not measured"


def test_a_short_step_that_learns_nothing_does_not_pay():
    found = measured()
    found.rows = [
        dataclasses.replace(
            row, steps_to_loss=None if row.method == "tfdist-randomk" else 20
        )
        for row in found.rows
    ]
    assert verdicts.compressed(found, "mlp", "1Gbit")[0].method == "tfdist-randomk"
    assert "tfdist-powersgd pays" in verdicts.verdict(found, "mlp", "1Gbit")


def test_stages_add_up_to_the_step():
    found = measured()
    text = verdicts.stages(found, found.find("mlp", "tfdist-powersgd", "1Gbit"))
    total, _, parts = text.replace("**", "").partition(" ms = ")
    parts, _, overlap = parts.partition(" - ")
    numbers = [float(part.split()[0]) for part in parts.split(" + ")]
    assert len(numbers) == 4
    assert sum(numbers) - float(overlap.split()[0]) == pytest.approx(
        float(total), abs=2
    )


def test_stages_at_the_same_time_are_said():
    found = measured()
    found.stages["mlp"]["collectives of tfdist, 1Gbit"] = 0.440
    text = verdicts.stages(found, found.find("mlp", "tfdist", "1Gbit"))
    # 52 ms of computing and 440 ms of the all-reduce, of which TCP needs 424.
    assert text.startswith("430 ms = 52 ms computing on both hosts at once + **424 ms ")
    assert " + 16 ms that its collectives, alone, take longer than TCP" in text
    assert " - 62 ms of these at the same time; a rank" in text


def test_the_report_holds_every_row_and_failure():
    found = measured()
    found.failures = [Failure("mlp", "multiworker", "it ended: a | b")]
    text = report.report(found)
    for words in ("tfdist, powersgd rank 4", "PyTorch DDP, fp16", "50 ms", "9.6"):
        assert words in text
    assert "| mlp | multiworker | it ended: a \\| b |" in text
    assert "shared" not in text
    found.machine["load before"] = 3.0
    assert "The machine was shared" in report.report(found)


def test_four_hosts_count_bytes_only():
    found = dataclasses.replace(measured(), hosts=4)
    text = report.report(found)
    assert "only the bytes count" in text
    assert "Targets" not in text and "pays" not in text


def test_results_survive_a_file(tmp_path):
    found = measured()
    found.failures = [Failure("mlp", "ddp", "why", optional=True)]
    found.save(tmp_path / "results.json")
    assert results.load(tmp_path / "results.json") == found


def test_a_picture_is_drawn(tmp_path):
    plot.draw(measured(), tmp_path / "report.png")
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
