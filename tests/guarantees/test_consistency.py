"""ReplicaConsistency catches what makes replicas differ, and says where it is."""

import pytest

from tests.guarantees.launch import Findings, launch_all

NAMES = (
    "raised",
    "warned",
    "repaired",
    "late_statistics",
    "late_local_steps",
    "other_arguments",
)
OF_SCRIPT = ("plain_horovod", "stock_horovod")  # stock Horovod comes last: it stays
EXCERPTS = {
    "flip_bit": "e-0",
    "skip_update": "iteration",
    "load_other_weights": "kernel",
    "change_slot": "momentum",
    "change_statistics": "moving_mean",
}
LAST = {"mirrored": "replica 1", "horovod-3": "rank 2"}  # else rank 1
FULL = ("mirrored", "horovod-mpi", "horovod-3", "multiworker")
WAYS = ["horovod", *(pytest.param(way, marks=pytest.mark.full) for way in FULL)]


@pytest.fixture(scope="module")
def findings_of(tmp_path_factory: pytest.TempPathFactory):
    """Launch what is asked for, each once; what `make test` needs side by side."""
    done: dict[str, Findings] = {}

    def find(way: str) -> Findings:
        if way not in done:
            ways = ("horovod", "script") if way not in FULL else (way,)
            launches = []
            for each in ways:
                folder = tmp_path_factory.mktemp(each)
                if each == "script":
                    launches.append(("consistency", "horovod", folder, *OF_SCRIPT))
                else:
                    launches.append(("consistency", each, folder, *NAMES))
            found = launch_all(launches, seconds=280)
            done.update(zip(ways, found, strict=True))
        return done[way]

    return find


def assert_told(text: str, last: str, *excerpts: str) -> None:
    for excerpt in (last, *excerpts, "Received: ", "Expected: ", "\nHINT: "):
        assert excerpt in text, text


@pytest.mark.parametrize("way", WAYS)
def test_raised_on_all_ranks_before_six_more_steps(way: str, findings_of) -> None:
    for found in findings_of(way)["raised"]:
        for name, excerpt in EXCERPTS.items():
            assert found[name]["kind"] == "RankMismatchError", found[name]
            assert found[name]["steps"] == 11  # the first one, and each fifth later
            assert_told(found[name]["text"], LAST.get(way, "rank 1"), excerpt)


@pytest.mark.parametrize("way", WAYS)
def test_control_without_harm_training_ends(way: str, findings_of) -> None:
    for found in findings_of(way)["raised"]:
        assert found["nothing"]["kind"] == ""
        assert found["nothing"]["told"] == []
        assert found["nothing"]["steps"] == 24


@pytest.mark.parametrize("way", WAYS)
def test_one_bit_is_named_with_its_size(way: str, findings_of) -> None:
    for found in findings_of(way)["raised"]:
        text = found["flip_bit"]["text"]
        assert "in 1 of 12 elements" in text
        assert "more" not in text and "bias" not in text


@pytest.mark.parametrize("way", WAYS)
def test_a_warning_comes_once_and_training_goes_on(way: str, findings_of) -> None:
    chief, *others = findings_of(way)["warned"]
    for found in (chief, *others):
        assert (found["kind"], found["steps"]) == ("", 24)
    assert 1 <= len(chief["told"]) <= 2  # more variables may differ later
    assert_told(chief["told"][0], LAST.get(way, "rank 1"), "momentum")
    assert all(found["told"] == [] for found in others)
    assert not all_equal([chief, *others]), "the control: nobody has repaired it"


@pytest.mark.parametrize("way", WAYS)
def test_a_repair_sends_the_first_replicas_values(way: str, findings_of) -> None:
    found = findings_of(way)["repaired"]
    assert [each["kind"] for each in found] == [""] * len(found)
    assert [each["state"]["repairs"] for each in found] == [1] * len(found)
    assert all_equal(found)
    (told,) = found[0]["told"]
    assert_told(told, LAST.get(way, "rank 1"), "(repair 1)")


@pytest.mark.parametrize("way", WAYS)
def test_later_agreement_is_checked_when_it_is_due(way: str, findings_of) -> None:
    last = LAST.get(way, "rank 1")
    for found in findings_of(way)["late_statistics"]:
        assert found["kind"] == "RankMismatchError"
        assert_told(found["text"], last, "moving_mean", "at the end of epoch 1")
    for found in findings_of(way)["late_local_steps"]:
        assert found["kind"] == "RankMismatchError"
        assert_told(found["text"], last, "after step 2 of epoch 1")


@pytest.mark.parametrize("way", WAYS)
def test_ranks_with_other_arguments_are_refused(way: str, findings_of) -> None:
    if way == "mirrored":
        pytest.skip("one process cannot disagree with itself")
    for found in findings_of(way)["other_arguments"]:
        assert found["kind"] == "RankMismatchError"
        assert "replica consistency" in found["text"]


def test_horovods_own_optimizer_is_caught_after_the_first_step(findings_of) -> None:
    found = findings_of("script")["stock_horovod"]
    for rank in found:
        assert rank["stock"]["kind"] == "RankMismatchError"
        assert rank["stock"]["steps"] == 1
        assert_told(rank["stock"]["text"], "rank 1", "kernel", "tfdist.strategy(")
        # The control: nothing else would have said so.
        assert rank["without the callback"]["kind"] == ""
        assert rank["without the callback"]["steps"] == 8
        assert rank["repaired"]["kind"] == ""


def test_plain_keras_under_horovodrun(findings_of) -> None:
    for rank in findings_of("script")["plain_horovod"]:
        assert rank["alike"]["kind"] == ""
        assert rank["steps"]["kind"] == "RankMismatchError"
        assert_told(rank["steps"]["text"], "rank 1 at step 7", "rank 0 at step 8")
        assert rank["models"]["kind"] == "RankMismatchError"
        assert_told(rank["models"]["text"], "rank 1", "other shapes")


def all_equal(found: list[dict]) -> bool:
    """Return whether all copies of every variable, of all ranks, have one sum."""
    per_variable = zip(*(each["sums"] for each in found), strict=True)
    return all(len(set(sum(copies, []))) == 1 for copies in per_variable)
