"""The wording and the family of the errors."""

from __future__ import annotations

import pytest

from tfdist import errors


def test_explain_says_received_expected_and_hint():
    text = errors.explain("It is odd", received=3, expected="even", hint="Add 1.")
    assert text == "It is odd. Received: 3. Expected: even.\nHINT: Add 1."


@pytest.mark.parametrize(
    "kind", [errors.RankMismatchError, errors.RankLostError, errors.StallError]
)
def test_one_except_clause_catches_every_cluster_error(kind):
    with pytest.raises(errors.TfdistError, match="why"):
        raise kind("why")


def test_a_wrong_argument_is_no_cluster_error():
    assert not issubclass(ValueError, errors.TfdistError)
    assert not issubclass(errors.TfdistError, ValueError)


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("powersdg", "powersgd"),
        ("TopK", "topk"),
        ("cycle_time", "cycle_time_ms"),
        ("-h", "-H"),
        ("zzz", None),
    ],
)
def test_the_nearest_word_is_found(word, meant):
    known = ["powersgd", "topk", "cycle_time_ms", "cache_capacity", "-H"]
    assert errors.nearest(word, known) == meant
    assert errors.nearest(word, []) is None
