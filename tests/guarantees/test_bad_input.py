"""A user's mistakes: what was received, what was expected, the fix, before any step."""

import pytest

from tests.guarantees.launch import Findings, launch_all

MESSAGES = {
    "unknown_name": ("ValueError", "'horovd'"),
    "wrong_option": ("TypeError", "device_count"),
    "empty_arrays": ("ValueError", "no data"),
    "empty_dataset": ("ValueError", "no data"),
    "empty_filter": ("ValueError", "no data"),
    "endless_training": ("ValueError", "x for ever"),
    "endless_validation": ("ValueError", "validation_data for ever"),
    "outside_scope": ("ValueError", "outside the strategy's scope"),
    "shared_optimizer": ("ValueError", "optimizer cannot train two models"),
    "optimizer_outside": ("ValueError", "outside the strategy's scope"),
    "metric_outside": ("ValueError", "outside the strategy's scope"),
    "compiled_by_xla": ("ValueError", "jit_compile=True"),
    "unknown_regularizer": ("ValueError", "Mine"),
    "unbatched": ("ValueError", "not batched"),
    "compressed_twice": ("ValueError", "two GradientCompression"),
    "local_steps_too_late": ("ValueError", "GradientCompression before LocalSGD"),
    "local_steps_with_average": ("ValueError", "use_ema=True"),
    "nothing_to_compress": ("ValueError", "nothing to compress"),
    "long_warm_up": ("ValueError", "a warm-up of 6 steps"),
    "precise_twice": ("ValueError", "two MixedPrecision"),
    "measured_twice": ("ValueError", "two Telemetry"),
    "unwritable_log_dir": ("ValueError", "log_dir='/dev/null/runs'"),
    "two_loss_scales": ("ValueError", "two loss scales"),
    "forgotten_scale": ("ValueError", "does not call optimizer.scale_loss"),
    "unknown_policy": ("ValueError", "'mixed_flaot16'"),
}
PROCESSES = {
    "sharded_by_files": ("ValueError", "AutoShardPolicy.FILE"),
    "unknown_length": ("ValueError", "number of steps is not known"),
}
CASES = [("mirrored", name) for name in MESSAGES]
CASES += [("horovod", name) for name in (*MESSAGES, *PROCESSES)]


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Findings]:
    names = {
        "mirrored": (*MESSAGES, "nothing_wrong", "malformed_tf_config", "no_horovod"),
        "horovod": (*MESSAGES, *PROCESSES, "nothing_wrong"),
    }
    launches = [
        ("bad_input", way, tmp_path_factory.mktemp(way), *names[way]) for way in names
    ]
    return dict(zip(names, launch_all(launches), strict=True))


def assert_worded(outcome: dict, kind: str, excerpt: str) -> None:
    assert outcome["kind"] == kind, outcome["text"]
    for part in (excerpt, "Received: ", "Expected: ", "\nHINT: "):
        assert part in outcome["text"]


@pytest.mark.parametrize(("way", "name"), CASES)
def test_refused_on_every_rank(way: str, name: str, findings: dict) -> None:
    for outcome in findings[way][name]:
        assert_worded(outcome, *(MESSAGES | PROCESSES)[name])
        assert not outcome.get("moved", False), "the weights have changed"


def test_malformed_tf_config(findings: dict) -> None:
    (outcomes,) = findings["mirrored"]["malformed_tf_config"]
    assert len(outcomes) == 3
    for outcome in outcomes:
        assert_worded(outcome, "ValueError", "TF_CONFIG")


def test_horovod_not_built(findings: dict) -> None:
    (outcome,) = findings["mirrored"]["no_horovod"]
    assert_worded(outcome, "ImportError", "tfdist horovod install")


@pytest.mark.parametrize("way", ["mirrored", "horovod"])
def test_control_right_input_trains(way: str, findings: dict) -> None:
    for outcome in findings[way]["nothing_wrong"]:
        assert outcome["kind"] == ""
        assert outcome["moved"]
