"""The file that Telemetry writes: rows go in and come out, and nothing else does."""

import csv
import dataclasses
import math

import pytest

from tfdist.telemetry import table
from tfdist.telemetry.table import COLUMNS, FILE, PREVIOUS, Row, TableError, Writer

NOT_KNOWN = float("nan")
ROW = Row(
    scope=table.EPOCH,
    epoch=0,
    step=10,
    steps=9,
    time=1.25,
    rank=None,
    host="node,1",
    slowest_rank=1,
    examples_per_second=640.5,
    step_ms=100.0,
    compute_ms=70.0,
    input_ms=20.0,
    communication_ms=10.0,
    bytes_per_step=4096.0,
    memory_mb=512.0,
    device_memory_mb=NOT_KNOWN,
    learning_rate=0.1,
    loss_scale=NOT_KNOWN,
    metrics={"loss": 0.5, 'val_"odd", name': 1e-9},
)


def at(step: int, **changes) -> Row:
    return dataclasses.replace(ROW, step=step, **changes)


def test_rows_survive(tmp_path):
    rows = [ROW, at(10, rank=0, metrics={}), at(20, scope=table.STEPS, rank=1)]
    Writer(tmp_path, steps=0).append(rows)
    found = table.read(tmp_path / FILE)
    assert [repr(row) for row in found] == [repr(row) for row in rows]
    assert math.isnan(found[0].loss_scale)
    assert found[0].own_ms == 90.0


def test_a_resumed_training_has_each_row_once(tmp_path):
    Writer(tmp_path, steps=0).append([at(10), at(20), at(30)])
    again = Writer(tmp_path, steps=20)
    again.append([at(30), at(40)])
    assert [row.step for row in table.read(tmp_path / FILE)] == [10, 20, 30, 40]


def test_a_new_training_keeps_the_previous_file(tmp_path):
    Writer(tmp_path, steps=0).append([at(10)])
    Writer(tmp_path, steps=0)
    assert table.read(tmp_path / FILE) == []
    assert [row.step for row in table.read(tmp_path / PREVIOUS)] == [10]


def test_a_line_that_was_cut_off_is_left_out(tmp_path):
    Writer(tmp_path, steps=0).append([at(10), at(20)])
    text = (tmp_path / FILE).read_text()
    (tmp_path / FILE).write_text(text[:-30])
    assert [row.step for row in table.read(tmp_path / FILE)] == [10]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("epoch,loss\n0,1.0\n", r"line 1.*columns epoch,loss(.|\n)*HINT"),
        (f"{','.join(COLUMNS)}\n2,steps\n", r"line 2.*schema 2"),
        (f"{','.join(COLUMNS)}\n1{',x' * (len(COLUMNS) - 1)}\n", "line 2.*'x'"),
        (f"{','.join(COLUMNS)}\n1,steps{',1' * (len(COLUMNS) - 2)}\n", "metrics 1"),
        (f"{','.join(COLUMNS)}\n{'x' * 200_000}\n", "larger than field limit"),
        ("\xff\xfe\x00", "cannot be read"),
    ],
)
def test_another_file_is_refused(tmp_path, text, words):
    (tmp_path / FILE).write_bytes(text.encode("latin-1"))
    with pytest.raises(TableError, match=words):
        table.read(tmp_path / FILE)


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ("steps", "0"),
        ("step_ms", ""),
        ("step_ms", "inf"),
        ("bytes_per_step", ""),
        ("compute_ms", "-inf"),
        ("metrics", '{"loss": null}'),
        ("metrics", "[" * 100_000),
    ],
)
def test_a_damaged_cell_is_refused(tmp_path, column, cell):
    Writer(tmp_path, steps=0).append([ROW])
    with (tmp_path / FILE).open(newline="") as file:
        head, row = csv.reader(file)
    row[COLUMNS.index(column)] = cell
    with (tmp_path / FILE).open("w", newline="") as file:
        csv.writer(file).writerows([head, row])
    with pytest.raises(TableError, match=r"line 2(.|\n)*HINT"):
        table.read(tmp_path / FILE)


def test_a_training_does_not_go_on_with_another_file(tmp_path):
    (tmp_path / FILE).write_text("epoch,loss\n0,1.0\n")
    with pytest.raises(TableError):
        Writer(tmp_path, steps=5)
    assert (tmp_path / FILE).read_text() == "epoch,loss\n0,1.0\n"
