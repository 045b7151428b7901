"""`tfdist plot`: pages for all kinds of runs, and one line for what cannot be drawn."""

import dataclasses
import re

import pytest

pytest.importorskip("matplotlib", reason="needs the extra tfdist[plot]")

from tests.unit.test_telemetry_table import ROW  # noqa: E402
from tfdist.launch import main as main_module  # noqa: E402
from tfdist.launch.plot import page, runs  # noqa: E402
from tfdist.telemetry.table import EPOCH, FILE, STEPS, Writer  # noqa: E402

NOT_KNOWN = float("nan")


def write(folder, ranks=1, parts=6, slow=0, host="host", **changes):
    """Writes a run in which one rank computes three times as long as the others."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = Writer(folder, steps=0)
    for part in range(1, parts + 1):
        row = dataclasses.replace(
            ROW, scope=STEPS, step=100 * part, steps=100, time=3.0 * part, **changes
        )
        own = [
            dataclasses.replace(
                row,
                rank=rank,
                host=f"{host}{rank}",
                compute_ms=row.compute_ms if rank == slow else row.compute_ms / 3,
                communication_ms=row.step_ms
                - row.input_ms
                - (row.compute_ms if rank == slow else row.compute_ms / 3),
                metrics={},
            )
            for rank in range(ranks)
        ]
        writer.append([row, *own])
        if part % 2 == 0:
            writer.append([dataclasses.replace(row, scope=EPOCH, steps=200)])
    return folder


def titles(figure):
    return [panel.get_title("left") for panel in figure.axes if panel.get_title("left")]


def drawn(figure):
    """Returns the boxes of all titles and legends, after the layout is made."""
    figure.canvas.draw()
    return [
        text.get_window_extent()
        for panel in figure.axes
        for text in (panel.title, panel._left_title, panel.get_legend())
        if text is not None and (not hasattr(text, "get_text") or text.get_text())
    ]


@pytest.mark.parametrize(
    ("ranks", "changes"),
    [
        (1, {"communication_ms": 0.0, "bytes_per_step": 0.0}),
        (2, {}),
        (40, {"loss_scale": 1024.0, "host": "a-node.of.a.rather.large.cluster"}),
        (
            1,
            dict.fromkeys(("compute_ms", "input_ms", "examples_per_second"), NOT_KNOWN),
        ),
        (2, {"parts": 1, "metrics": {}, "learning_rate": NOT_KNOWN}),
        (2, {"metrics": {"loss": 1.0, "$cost_in_$": 2.0}, "host": r"$\\no{"}),
    ],
)
def test_a_page_holds_six_panels_that_do_not_overlap(tmp_path, ranks, changes):
    folder = write(tmp_path / "run", ranks, **changes)
    figure = page.page([runs.load(folder, "run")])
    assert len(titles(figure)) == 6
    boxes = drawn(figure)
    width, height = figure.canvas.get_width_height()
    for number, box in enumerate(boxes):
        assert 0 <= box.x0 and box.x1 <= width and 0 <= box.y0 and box.y1 <= height
        assert not any(box.overlaps(other) for other in boxes[:number])


def test_the_page_says_which_rank_is_slow(tmp_path):
    folder = write(tmp_path / "run", ranks=4, slow=2)
    run = runs.load(folder, "run")
    assert (run.slowest.number, run.slowest.host) == (2, "host2")
    assert run.slowest.own_ms == pytest.approx(90.0)
    found = " ".join(titles(page.page([run])))
    assert re.search(r"Slowest: rank 2 on host2, 90 ms .*median 43 ms", found)
    other = runs.load(write(tmp_path / "other", ranks=4, slow=1), "other")
    assert other.slowest.number == 1  # not what is drawn always


def test_means_count_steps():
    parts = [
        dataclasses.replace(ROW, step=step, steps=steps, step_ms=duration, rank=0)
        for step, steps, duration in ((1, 1, 400.0), (4, 3, 100.0))
    ]
    (rank,) = runs._ranks(parts)
    assert rank.step_ms == 175.0


def test_several_runs_are_drawn_in_one_page(tmp_path):
    first = write(tmp_path / "a" / "run", ranks=2)
    second = write(tmp_path / "b" / "run", ranks=3)
    file = tmp_path / "both.png"
    words = ["plot", str(first), str(second), "--out", str(file)]
    assert main_module.main(words) == 0
    assert file.read_bytes().startswith(b"\x89PNG")
    assert runs.named([first, second]) == ["a/run", "b/run"]
    assert runs.named([first, first]) != ["run", "run"]


def test_the_picture_stands_beside_the_table(tmp_path, capsys):
    assert main_module.main(["plot", str(write(tmp_path / "run"))]) == 0
    assert (tmp_path / "run" / "telemetry.png").exists()
    assert "telemetry.png" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["{}/nowhere"], r"no folder .*nowhere\. HINT"),
        (["{}"], rf"no {FILE} in"),
        (["{}/empty"], "is empty"),
        (["{}/head"], "no rows yet"),
        (["{}/old"], r"line 1.*HINT: Train again"),
        (["{}/begun"], "no rows yet"),
        (["{}/run", "--out", "{}/folder.png"], "folder.png cannot be written"),
        (["{}/run", "--out", "{}/page.txt"], "cannot write 'page.txt'"),
        (["{}/run", "--out", "{}/none/page.png"], "no folder .*none. HINT: mkdir"),
        (["{}/run"] * 9, "9 folders"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(tmp_path, capsys, words, expected):
    write(tmp_path / "run")
    for name, text in (("empty", ""), ("old", "epoch,loss\n0,1\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / FILE).write_text(text)
    lines = (tmp_path / "run" / FILE).read_text().splitlines(keepends=True)
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / FILE).write_text("".join(lines[:2]))  # ranks' rows missing
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "head").mkdir()
    Writer(tmp_path / "head", steps=0)
    code = main_module.main(["plot", *(word.format(tmp_path) for word in words)])
    said = capsys.readouterr().err.strip()
    assert code == 2
    assert len(said.splitlines()) == 1
    assert re.search(expected, said)


def test_a_missing_matplotlib_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main_module.main(["plot", str(write(tmp_path / "run"))]) == 2
    assert "tfdist[plot]" in capsys.readouterr().err
