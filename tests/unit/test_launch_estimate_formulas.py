"""The table of `tfdist estimate` against the compressors' own formulas."""

import pytest

from tfdist import compression
from tfdist.compression.rounds import SUM, received
from tfdist.launch.estimate.compressions import (
    MATRIX_SIDE,
    WAYS,
    Compression,
    Gradients,
)
from tfdist.launch.estimate.cost import Link

SHAPES = [(MATRIX_SIDE, MATRIX_SIDE)] * 3
GRADIENTS = Gradients(3 * MATRIX_SIDE**2)
BYTE_A_SECOND = Link(latency=0.0, bandwidth=8.0)
OTHER_SETTINGS = {"powersgd": ("rank", 7), "randomk": ("ratio", 0.2)}
OTHER_SETTINGS["topk"] = ("ratio", 0.03)


def test_the_table_names_every_compressor():
    assert set(WAYS) == set(compression.names())


def check(way, compressor, ranks):
    """Without latency, a byte a second: the seconds are the bytes received."""
    payload = compressor.payload(SHAPES, ranks, has_all_to_all=True)
    expected = sum(received(each, ranks) for each in payload)
    assert way.seconds(GRADIENTS, ranks, BYTE_A_SECOND) == pytest.approx(
        expected, rel=0.003
    )
    if payload[0].collective == SUM:
        assert way.way.rounds == len(payload)


@pytest.mark.parametrize("ranks", [2, 3, 64])
@pytest.mark.parametrize("name", WAYS)
def test_bytes_are_the_compressors(name, ranks):
    way = WAYS[name]
    check(Compression(way, way.setting), compression.get(name), ranks)


@pytest.mark.parametrize("ranks", [2, 3, 64])
@pytest.mark.parametrize("name", OTHER_SETTINGS)
def test_bytes_follow_the_setting(name, ranks):
    parameter, value = OTHER_SETTINGS[name]
    check(
        Compression(WAYS[name], value),
        compression.get(name, **{parameter: value}),
        ranks,
    )


def test_a_setting_is_what_decides():
    with pytest.raises(AssertionError):
        check(Compression(WAYS["powersgd"], 4), compression.get("powersgd", rank=5), 2)
