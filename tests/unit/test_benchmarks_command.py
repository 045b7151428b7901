"""The command line of benchmarks/network: what it means, and what it refuses."""

import pytest

from benchmarks.network import command, models
from benchmarks.network.methods import METHODS


def plan(*words):
    return command.read_plan(command.build_parser().parse_args(words))


def test_everything_and_the_quick_run():
    whole, quick = plan(), plan("--quick")
    assert [rate.bits for rate in whole.rates] == [1e8, 1e9, 1e10, None]
    assert tuple(whole.models) == models.NAMES
    assert whole.methods == list(METHODS.values())
    assert [rate.name for rate in quick.rates] == ["1Gbit", "unlimited"]
    assert quick.models == ["mlp"]
    assert 0 < len(quick.methods) < len(whole.methods)
    assert whole.hosts == quick.hosts == 2


def test_what_is_named_is_measured():
    given = plan(
        *("--quick", "--rates", "2Gbit", "--models", "resnet"),
        *("--methods", "tfdist,ddp", "--hosts", "4"),
    )
    assert [rate.bits for rate in given.rates] == [2e9]
    assert given.models == ["resnet"]
    assert [method.name for method in given.methods] == ["tfdist", "ddp"]
    assert given.hosts == 4


@pytest.mark.parametrize(
    "words, said",
    [
        (("--rates", "fast"), "--rates: cannot read 'fast'"),
        (("--rates", "0Gbit"), "--rates: expected more than 0"),
        (("--rates", "1Gbit,1Gbit"), "--rates: '1Gbit' is there twice"),
        (("--models", "resnet50"), "--models resnet"),
        (("--methods", "tfdist-powersdg"), "--methods tfdist-powersgd"),
        (("--hosts", "1"), "--hosts: expected 2, 3 or 4, received '1'"),
        (("--hosts", "two"), "--hosts 2"),
    ],
)
def test_what_cannot_be_read_is_refused_before_anything_starts(words, said, capsys):
    assert command.main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err and "HINT: " in captured.err


def test_an_unknown_option(capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(["--rate", "1Gbit"])
    assert ended.value.code == 2
    assert "did you mean --rates?" in capsys.readouterr().err


def test_without_root_it_says_so(monkeypatch, capsys, tmp_path):
    reason = "hosts are built of namespaces, which takes root"
    monkeypatch.setattr(command.bed, "missing", lambda: reason)
    assert command.main(["--quick", "--out", str(tmp_path / "new")]) == 2
    assert f"no test hosts: {reason}. HINT: sudo" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_names_are_unique_and_programs_exist():
    for name, method in METHODS.items():
        assert method.name == name
        path = command.bed.ROOT / f"benchmarks/network/programs/{method.program}.py"
        assert path.exists()
    assert len({method.what for method in METHODS.values()}) == len(METHODS)
