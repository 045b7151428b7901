"""Settings for horovodrun: what it would ignore or refuse is found before."""

import pytest

from tfdist.launch.errors import CommandError

pytest.importorskip(
    "horovod.runner.common.util.config_parser",
    reason="Horovod is not built: tfdist horovod install",
)
from tfdist.launch.horovodrun_config import (  # noqa: E402
    ignored_keys,
    known_keys,
    read_settings,
)


def test_keys_are_those_that_the_parser_asks_for():
    keys = known_keys()
    assert {"controller", "params.cycle_time_ms", "stall_check.enabled"} <= keys
    assert all(name.count(".") == (name != "controller") for name in keys)
    everything: dict = {}
    for key in keys - {"controller"}:
        section, _, name = key.partition(".")
        everything.setdefault(section, {})[name] = 1
    assert ignored_keys(everything | {"controller": "gloo"}) == []


def test_a_good_file_is_returned(tmp_path):
    file = tmp_path / "good.yaml"
    file.write_text("controller: gloo\nparams:\n  cycle_time_ms: 2\n")
    assert read_settings(file) == {
        "controller": "gloo",
        "params": {"cycle_time_ms": 2},
    }
    file.write_text("# nothing but a comment\n")
    assert read_settings(file) == {}


@pytest.mark.parametrize(
    ("text", "problem", "hint"),
    [
        ("params:\n  cycle_time: 1", "ignore the key 'params.cycle_time'", "_ms'"),
        ("stall_chek:\n  enabled: true", "ignore the key 'stall_chek'", "stall_check"),
        ("cycle_time_ms: 1", "ignore the key 'cycle_time_ms'", "params.cycle_time_ms"),
        ("timeline:\n  level: INFO", "'timeline.level'", "logging.level"),
        ("qqqq: 1", "ignore the key 'qqqq'", "it knows autotune, controller"),
        ("controller: carrier-pigeon", "carrier-pigeon", "horovodrun_configs/"),
        ("params:\n  cycle_time_ms: -1", "cycle_time_ms=-1", "horovodrun_configs/"),
        ("params:\n  cycle_time_ms: fast", "refuses a value", "horovodrun_configs/"),
        ("params: 3", "'params' is not a section but 3", "params.cache_capacity"),
        ("- a\n- b", "holds a list", "YAML"),
        ("a: [", "is not YAML", "YAML"),
        ("1: 2", "not named settings", "YAML"),
        ("!!python/object/apply:os.system ['true']", "is not YAML", "YAML"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path, text, problem, hint):
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    with pytest.raises(CommandError) as caught:
        read_settings(file)
    said, found, helped = str(caught.value).partition(" HINT: ")
    assert problem in said and hint in helped
    assert found and "\n" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(CommandError, match="cannot be read: No such file"):
        read_settings(tmp_path / "none.yaml")
    with pytest.raises(CommandError, match="cannot be read: Is a directory"):
        read_settings(tmp_path)
