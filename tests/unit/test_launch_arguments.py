"""What several verbs take: numbers of ranks, and hosts as horovodrun does."""

import pytest

from tfdist.launch.arguments import Host, parse_hosts, parse_ranks
from tfdist.launch.errors import CommandError


def test_hosts():
    expected = (Host("a", 2), Host("b", 1), Host("10.0.0.7", 1))
    assert parse_hosts("a:2, b,10.0.0.7:1") == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a:2,a:2", "stands twice"),
        ("a:0", "no positive number"),
        ("a:x", "no positive number"),
        ("a:", "no positive number"),
        ("", "no host"),
        ("a,,b", "no host"),
        ("-oProxyCommand=x:2", "no host"),  # would be an option of ssh
        ("a b:2", "no host"),
    ],
)
def test_malformed_hosts(text, problem):
    with pytest.raises(CommandError, match=problem):
        parse_hosts(text)


def test_ranks():
    assert parse_ranks("8", "-np") == 8


@pytest.mark.parametrize("text", ["0", "-1", "2.0", "", "²"])
def test_malformed_ranks(text):
    with pytest.raises(CommandError, match="HINT: -np 2"):
        parse_ranks(text, "-np")
