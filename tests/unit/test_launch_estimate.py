"""The cost model's invariants, the fit to measurements, and what is advised."""

import pytest

from tfdist.launch import main
from tfdist.launch.arguments import parse_ranks
from tfdist.launch.errors import CommandError
from tfdist.launch.estimate import command, measure, plot, units
from tfdist.launch.estimate.advice import advise
from tfdist.launch.estimate.compressions import (
    DEFAULT,
    MATRIX_SIDE,
    NONE,
    Gradients,
    parse_compression,
)
from tfdist.launch.estimate.cost import (
    Link,
    all_gather_seconds,
    all_reduce_seconds,
    crossing_bytes,
    efficiency,
    exchange_seconds,
    ring_bytes,
    ring_seconds,
    tree_seconds,
)
from tfdist.launch.estimate.fit import fit_line, fit_link
from tfdist.launch.estimate.probe import MARK

GIGABIT = Link(latency=50e-6, bandwidth=1e9)
RESNET = Gradients(25e6)
COLLECTIVES = [ring_seconds, tree_seconds, all_gather_seconds, exchange_seconds]
each_collective = pytest.mark.parametrize("seconds", COLLECTIVES)


def refusal(*words: str, capsys) -> str:
    assert main.main(["estimate", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1 and "HINT: " in captured.err
    return captured.err


@pytest.mark.parametrize("ranks", [1, 2, 3, 8, 1000])
def test_ring_sends_the_least_possible(ranks):
    assert ring_bytes(1e6, ranks) == pytest.approx(2 * (ranks - 1) / ranks * 1e6)
    assert ring_bytes(1e6, ranks) < 2e6


@each_collective
def test_one_rank_costs_nothing(seconds):
    assert seconds(1e9, 1, Link(1.0, 1.0, overhead=5.0)) == 0.0


@each_collective
def test_cost_is_monotone(seconds):
    link = Link(50e-6, 1e9, overhead=1e-3)
    base = seconds(1e6, 4, link)
    assert base > 0.0
    assert seconds(2e6, 4, link) > base
    assert seconds(1e6, 8, link) > base
    assert seconds(1e6, 4, Link(50e-6, 2e9, 1e-3)) < base
    assert seconds(1e6, 4, Link(51e-6, 1e9, 1e-3)) > base
    assert seconds(1e6, 4, Link(50e-6, 1e9, 2e-3)) > base


def test_known_values():
    # 50 MB over 1 Gbit/s on two ranks: 400 ms and two latencies.
    assert ring_seconds(50e6, 2, GIGABIT) == pytest.approx(0.4 + 100e-6)
    assert tree_seconds(50e6, 2, GIGABIT) == pytest.approx(0.8 + 100e-6)
    assert tree_seconds(0, 1000, Link(1.0, 1.0)) == 20.0  # 2 ceil(log2 1000)
    assert ring_seconds(0, 1000, Link(1.0, 1.0)) == 1998.0


@pytest.mark.parametrize("ranks", [4, 5, 8, 64, 1000])
def test_ring_and_tree_cross_once(ranks):
    crossing = crossing_bytes(ranks, GIGABIT)
    assert crossing > 0.0
    at = [f(crossing, ranks, GIGABIT) for f in (ring_seconds, tree_seconds)]
    assert at[0] == pytest.approx(at[1])
    below, above = 0.9 * crossing, 1.1 * crossing
    assert tree_seconds(below, ranks, GIGABIT) < ring_seconds(below, ranks, GIGABIT)
    assert ring_seconds(above, ranks, GIGABIT) < tree_seconds(above, ranks, GIGABIT)
    for size in (below, above):
        both = (ring_seconds(size, ranks, GIGABIT), tree_seconds(size, ranks, GIGABIT))
        assert all_reduce_seconds(size, ranks, GIGABIT) == min(both)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_few_ranks_have_no_crossing(ranks):
    assert crossing_bytes(ranks, GIGABIT) == 0.0
    for size in (0.0, 1.0, 1e9):
        ring = ring_seconds(size, ranks, GIGABIT)
        assert ring <= tree_seconds(size, ranks, GIGABIT)


def test_efficiency():
    assert efficiency(0.12, 0.0) == 1.0
    assert efficiency(0.1, 0.1) == 0.5


def gathered_over_dense(text: str, ranks: int) -> float:
    link = Link(latency=1e-12, bandwidth=1e9)
    compression = parse_compression(text)
    dense = NONE.seconds(RESNET, ranks, link)
    return compression.seconds(RESNET, ranks, link) / dense


def test_break_even_of_what_is_gathered():
    # top-k with indices wins below k = 1/N, one bit a number below 64 ranks.
    assert gathered_over_dense("topk:0.0124", 80) < 1.0
    assert gathered_over_dense("topk:0.0126", 80) > 1.0
    assert gathered_over_dense("sign", 63) < 1.0
    assert gathered_over_dense("sign", 65) > 1.0
    assert gathered_over_dense("int8", 1000) == pytest.approx(0.25, rel=0.02)


def test_bytes_on_the_wire():
    sizes = {each.label: each.wire_bytes(RESNET) for each in (NONE, *DEFAULT)}
    assert sizes["none"] == 100e6
    assert sizes["bf16"] == sizes["fp16"] == 50e6
    assert sizes["topk:0.01"] == 2e6 and sizes["randomk:0.05"] == 5e6
    assert sizes["int8"] == 25e6 * 65 / 64 and sizes["sign"] == pytest.approx(25e6 / 8)
    # As many matrices as hold the parameters, each as two of four columns.
    matrices = 25e6 / MATRIX_SIDE**2
    assert sizes["powersgd:4"] == pytest.approx(matrices * 4 * 2 * MATRIX_SIDE * 4)
    assert NONE.wire_bytes(Gradients(25e6, "bfloat16")) == 50e6


def test_full_rank_sends_no_more_than_everything():
    full = parse_compression("powersgd:512")
    assert full.wire_bytes(RESNET) == NONE.wire_bytes(RESNET)


def test_every_way_is_free_on_one_rank():
    assert {each.seconds(RESNET, 1, GIGABIT) for each in (NONE, *DEFAULT)} == {0.0}


def test_fast_networks_need_no_compression():
    fast = Link(1e-6, 400e9)
    advice = advise(RESNET, 8, fast, 0.12, DEFAULT)
    assert advice.compression is None and "do not compress" in advice.text


def test_slow_networks_do():
    advice = advise(RESNET, 8, GIGABIT, 0.12, DEFAULT)
    assert advice.compression is not None and "pays" in advice.text


def test_lossy_ways_must_beat_half_precision():
    # 20 ms against 120 ms: half of it is worth having, a quarter more is not.
    link = Link(1e-9, 100e6 * 8 / 0.02)
    candidates = tuple(map(parse_compression, ("int8", "bf16")))
    step = 0.08
    assert advise(RESNET, 2, link, step, candidates).compression.label == "bf16"
    assert advise(RESNET, 2, link, step, candidates[:1]).compression.label == "int8"


def test_advice_never_lengthens_a_step():
    for ranks in (2, 64, 1024):
        for bandwidth in (1e8, 1e9, 1e11):
            link = Link(50e-6, bandwidth)
            chosen = advise(RESNET, ranks, link, 0.12, DEFAULT).compression or NONE
            dense = NONE.seconds(RESNET, ranks, link)
            assert chosen.seconds(RESNET, ranks, link) <= dense


def test_without_a_step_the_needed_one_is_named():
    advice = advise(RESNET, 2, Link(1e-12, 1e9), None, DEFAULT)
    assert advice.compression is None
    assert "steps of 7.2 s" in advice.text  # nine times 800 ms
    assert "nothing" in advise(RESNET, 1, GIGABIT, 0.12, DEFAULT).text


def test_a_line_is_found_again():
    samples = [(n, 2e-3 + 8e-9 * n) for n in (4096, 65536, 1e6, 16e6)]
    assert fit_line(samples) == pytest.approx((2e-3, 8e-9))
    # One slow large message must not move the time of a small one.
    intercept, _ = fit_line([*samples, (16e6, 10 * samples[-1][1])])
    assert intercept == pytest.approx(2e-3, rel=0.05)


@pytest.mark.parametrize("ranks", [2, 3, 16])
def test_a_link_is_found_again(ranks):
    link = Link(50e-6, 3e9, overhead=1e-3)
    sizes = (4096, 65536, 1e6, 16e6)
    samples = [(n, ring_seconds(n, ranks, link)) for n in sizes]
    found = fit_link(samples, ranks, latency=50e-6)
    assert found.bandwidth == pytest.approx(3e9)
    assert found.overhead == pytest.approx(1e-3)
    assert [ring_seconds(n, ranks, found) for n in sizes] == pytest.approx(
        [seconds for _, seconds in samples]
    )


def test_latency_is_never_more_than_was_measured():
    samples = [(n, 1e-5 + 1e-9 * n) for n in (1e3, 1e6)]
    found = fit_link(samples, 2, latency=1.0)
    assert found.latency == pytest.approx(0.5e-5) and found.overhead == 0.0


def test_times_that_fall_say_nothing():
    with pytest.raises(ValueError, match="took no longer"):
        fit_link([(1e3, 2.0), (1e6, 1.0)], 2, 50e-6)


def test_one_size_says_nothing():
    # The probe measures no larger one where the smallest already takes too long.
    with pytest.raises(ValueError, match="only one size"):
        fit_link([(4096.0, 0.6)], 2, 50e-6)


def test_samples_are_found_among_other_output():
    line = f'[1,0]<stdout>:{MARK}{{"ranks": 2, "samples": [[4, 0.5]]}}'
    assert measure.read_samples(f"noise\n{line}\nmore") == [(4.0, 0.5)]
    assert measure.read_samples("noise\n") is None


@pytest.mark.parametrize(
    ("text", "bits"),
    [("10Gbit", 1e10), ("1.25GB/s", 1e10), ("100Mbps", 1e8), ("1 Gbit/s", 1e9)],
)
def test_bandwidths(text, bits):
    assert units.parse_bandwidth(text, "--bandwidth") == pytest.approx(bits)


def test_numbers_with_units():
    assert units.parse_count("25M", "--params") == 25e6
    assert units.parse_count("1.5b", "--params") == 1.5e9
    assert units.parse_duration("50us", "--latency") == pytest.approx(50e-6)
    assert units.parse_list("2, 8", "--np", parse_ranks) == [2, 8]


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (units.show_bytes(0), "0 B"),
        (units.show_bytes(100e6), "100 MB"),
        (units.show_bytes(999_950), "1 MB"),
        (units.show_bytes(25e12), "25000 GB"),
        (units.show_seconds(0.0123), "12.3 ms"),
        (units.show_seconds(50e-6), "50 us"),
        (units.show_bandwidth(6.47e9), "6.47 Gbit/s"),
    ],
)
def test_short_numbers(shown, text):
    assert shown == text


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--params", "big"], "'big'"),
        (["--params", "0"], "more than 0"),
        (["--params", "-3M"], "'-3M'"),
        (["--np", "0"], "'0'"),
        (["--np", "2,"], "''"),
        (["--np", "2.5"], "'2.5'"),
        (["--bandwidth", "10"], "'10'"),
        (["--bandwidth", "10GB"], "'10GB'"),
        (["--bandwidth", "nanGbit"], "'nanGbit'"),
        (["--bandwidth", f"{'9' * 400}Gbit"], "more than 0"),
        (["--latency", "50"], "'50'"),
        (["--step-ms", "fast"], "'fastms'"),
        (["--compression", "powersdg"], "HINT: --compression powersgd"),
        (["--compression", "topk:2"], "received '2'"),
        (["--compression", "bf16:4"], "no setting"),
        (["--compression", "topk:nan"], "received 'nan'"),
        (["--dtype", "int3"], "'int3'"),
        (["--measure", "nccl"], "'nccl'"),
        (["-H", "a:2"], "--measure"),
        (["--measure", "-H", "a:1"], "no link"),
        (["--measure", "-H", "a:x"], "'a:x'"),
        (["--measure", "-H", "a,a:2"], "twice"),
        (["--measure", "--hosts=-oProxyCommand=x:2"], "no host"),
        (["--plot", "e.png"], "--step-ms"),
        (["--plot", "e.png", "--step-ms", "0"], "more than 0"),
        (["--plot", "e.doc", "--step-ms", "1"], ".png"),
        (["--plot", "/no/such/e.png", "--step-ms", "1"], "no folder"),
    ],
)
def test_bad_input_is_one_line(words, named, capsys):
    given = ["--params=25M"] if words[0] != "--params" else []
    if words[:1] == ["--params"]:
        words = [f"--params={words[1]}"]
    assert named in refusal(*given, *words, capsys=capsys)


def test_missing_matplotlib_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(plot.sys.modules, "matplotlib", None)
    words = ["--params=1M", "--step-ms=1", "--plot", str(tmp_path / "e.png")]
    assert "tfdist[plot]" in refusal(*words, capsys=capsys)


def test_the_tables(capsys):
    words = ["--params=25M", "--np=2,64", "--bandwidth=1Gbit", "--step-ms=120ms"]
    assert main.main(["estimate", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "100 MB of gradients" in lines[0]
    assert max(map(len, lines)) <= 100
    two = next(line for line in lines if line.startswith("      2"))
    assert "800 ms" in two and "13%" in two and "pays" in two


def test_the_plot_holds_what_was_asked(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="extra plot: pip install 'tfdist[plot]'")
    file = tmp_path / "e.svg"
    words = ["--params=25M", "--step-ms=120", "--plot", str(file)]
    assert main.main(["estimate", *words]) == 0
    assert file.stat().st_size > 10_000
    assert f"plot: {file}" in capsys.readouterr().out


def test_help_names_its_sources():
    for source in ("Hockney", "Patarasuk", "Thakur", "Vogels"):
        assert source in command.DESCRIPTION


def test_parse_compression_is_a_command_error():
    with pytest.raises(CommandError, match="known: none, bf16"):
        parse_compression("zip")
