"""What Telemetry measures in one process, what it leaves alone, and what it refuses."""

import errno
import gzip
import json
import re
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdist import callbacks
from tfdist.callbacks import Telemetry
from tfdist.callbacks import telemetry_figures as figures
from tfdist.telemetry import table

DELAY = 0.02  # seconds; a step takes less than a tenth of it
ROWS, BATCH = 48, 8  # six steps


def data() -> tuple[np.ndarray, np.ndarray]:
    draws = np.random.default_rng(1).normal(size=(ROWS, 4)).astype("float32")
    return draws, draws.sum(1, keepdims=True)


def compiled(**options) -> keras.Model:
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", **options)
    return model


def fit(model, *given, epochs=2, **options):
    x, y = data()
    options = {"batch_size": BATCH, "shuffle": False, "verbose": 0} | options
    return model.fit(x, y, epochs=epochs, callbacks=list(given), **options).history


def slow_batches() -> tf.data.Dataset:
    def wait(x, y):
        def sleep():
            time.sleep(DELAY)
            return True

        with tf.control_dependencies([tf.numpy_function(sleep, [], tf.bool)]):
            return tf.identity(x), y

    return tf.data.Dataset.from_tensor_slices(data()).batch(BATCH).map(wait)


class Delay(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        time.sleep(DELAY)


@pytest.mark.parametrize("steps", [1, 4])
def test_an_input_that_sleeps_is_waiting_for_input(steps):
    model, telemetry = compiled(steps_per_execution=steps), Telemetry()
    history = model.fit(
        slow_batches(), epochs=3, verbose=0, shuffle=False, callbacks=[telemetry]
    ).history
    # Of the three epochs, one at least is not disturbed.
    assert max(history["input_ms"]) > 0.5e3 * DELAY
    assert max(np.divide(history["input_ms"], history["step_ms"])) > 0.5


def test_a_callback_that_sleeps_is_not():
    history = fit(compiled(), Telemetry(), Delay(), epochs=3)
    assert min(history["step_ms"]) > 0.7e3 * DELAY
    assert min(np.divide(history["input_ms"], history["step_ms"])) < 0.3


@pytest.mark.parametrize(
    "options",
    [{}, {"steps_per_execution": 4}, {"run_eagerly": True}, {"jit_compile": True}],
)
def test_training_stays_what_it_is(options):
    alone = compiled(**options)
    losses = fit(alone)["loss"]
    model = compiled(**options)
    history = fit(model, Telemetry())
    assert history["loss"] == losses
    for own, other in zip(model.get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_array_equal(own, other)
    # XLA's step is one piece.
    assert ("examples_per_second" in history) == ("jit_compile" not in options)
    assert "step_ms" in history


def test_validation_does_not_count():
    class SlowTest(keras.callbacks.Callback):
        def on_test_begin(self, logs=None):
            time.sleep(25 * DELAY)

    history = fit(compiled(), Telemetry(), SlowTest(), validation_data=data())
    steps = ROWS / BATCH
    assert steps * min(history["step_ms"]) < 20e3 * DELAY


def operations(model: keras.Model) -> list[str]:
    """The operations of a training step and its functions, as Keras traces it now."""
    batch = tuple(tf.constant(part[:BATCH]) for part in data())
    program = tf.function(lambda *pair: model.train_step(pair))
    graph = program.get_concrete_function(*batch).graph.as_graph_def()
    parts = [graph.node, *(each.node_def for each in graph.library.function)]
    return sorted(node.op for nodes in parts for node in nodes)


def test_nothing_stays_behind_also_when_fit_fails():
    class Failing(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            assert "Timestamp" in operations(self.model)  # the check can see it
            raise RuntimeError("on purpose")

    model = compiled()
    before = operations(model)
    get_next = type(iter(slow_batches())).get_next
    with pytest.raises(RuntimeError, match="on purpose"):
        fit(model, Telemetry(), Failing())
    assert operations(model) == before
    assert not {"train_step", "make_train_function"} & vars(model).keys()
    assert type(iter(slow_batches())).get_next is get_next
    assert fit(model)["loss"]
    fit(model, Telemetry())  # not a second one


def test_files_hold_each_part_once(tmp_path):
    telemetry = Telemetry(tmp_path, every=4)
    fit(compiled(), telemetry, epochs=3, validation_data=data())
    rows = table.read(tmp_path / table.FILE)
    assert {row.rank for row in rows} == {None, 0}
    whole = [row for row in rows if row.rank is None]
    parts = [(row.step, row.steps) for row in whole if row.scope == table.STEPS]
    # The first execution, which traces, is left out.
    assert parts == [(5, 4), (6, 1), (10, 4), (12, 2), (16, 4), (18, 2)]
    epochs = [row for row in whole if row.scope == table.EPOCH]
    assert [(row.epoch, row.step, row.steps) for row in epochs] == [
        (0, 6, 5),
        (1, 12, 6),
        (2, 18, 6),
    ]
    assert all(set(row.metrics) == {"loss", "val_loss"} for row in epochs)
    assert epochs[0].learning_rate == pytest.approx(0.01)
    assert list(tmp_path.glob("events.out.tfevents.*"))


def test_a_resumed_training_goes_on_in_the_same_files(tmp_path):
    telemetry = Telemetry(tmp_path, every=3)
    states = []

    class Save(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            states.append(json.loads(json.dumps(telemetry.get_state())))

    fit(compiled(), telemetry, Save(), epochs=2)
    lost = table.read(tmp_path / table.FILE)
    state = states[9]  # in the second epoch, after four of its steps
    assert (state["steps"], state["epoch"]) == (10, 1)
    again = Telemetry.from_config(telemetry.get_config())
    again.set_state([state])
    assert again.get_state() == state
    fit(compiled(), again, epochs=2, initial_epoch=1, steps_per_epoch=2)
    rows = table.read(tmp_path / table.FILE)
    assert [row for row in rows if row.step <= 10] == [r for r in lost if r.step <= 10]
    keys = [(row.scope, row.step, row.rank) for row in rows]
    assert len(set(keys)) == len(keys)
    last = rows[-1]
    assert (last.scope, last.step) == (table.EPOCH, 12)
    assert last.steps == 3 + 1  # measured before and after; the trace is left out
    assert last.time > state["seconds"]


def test_a_second_fit_goes_on_a_new_callback_does_not(tmp_path):
    model, telemetry = compiled(), Telemetry(tmp_path)
    for _ in range(2):
        fit(model, telemetry, epochs=1)
    assert [row.step for row in table.read(tmp_path / table.FILE)][-1] == 12
    fit(model, Telemetry(tmp_path), epochs=1)
    assert [row.step for row in table.read(tmp_path / table.FILE)][-1] == 6
    assert (tmp_path / table.PREVIOUS).exists()


@pytest.mark.parametrize("is_set_back", [False, True])
def test_a_callback_goes_on_after_a_fit_that_failed(tmp_path, is_set_back):
    class Failing(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 1:
                states.append(telemetry.get_state())
            if batch == 4:
                raise RuntimeError("on purpose")

    model, telemetry, states = compiled(), Telemetry(tmp_path, every=1), []
    with pytest.raises(RuntimeError, match="on purpose"):
        fit(model, telemetry, Failing())
    steps = [row.step for row in table.read(tmp_path / table.FILE) if row.rank is None]
    assert steps == [2, 3, 4, 5]
    if is_set_back:
        telemetry.set_state(states)
        steps = steps[: steps.index(2) + 1]
    seconds = telemetry.get_state()["seconds"]
    fit(model, telemetry, epochs=1)
    rows = [row for row in table.read(tmp_path / table.FILE) if row.rank is None]
    first = 2 if is_set_back else 5
    found = [row.step for row in rows if row.scope == table.STEPS]
    assert found == [*steps, *range(first + 2, first + 7)]  # but the one that traces
    assert (rows[-1].scope, rows[-1].step) == (table.EPOCH, first + 6)
    times = [row.time for row in rows]
    assert times == sorted(times) and times[-1] > seconds > 0


def test_tensorboard_shows_what_the_table_holds(tmp_path):
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    fit(compiled(), Telemetry(tmp_path, every=3), epochs=2)
    events = reader.EventAccumulator(str(tmp_path)).Reload()
    rows = [row for row in table.read(tmp_path / table.FILE) if row.rank is None]
    for scope in (table.STEPS, table.EPOCH):
        shown = events.Scalars(f"telemetry/{scope}/step_ms")
        held = [row for row in rows if row.scope == scope]
        assert [each.step for each in shown] == [row.step for row in held]
        values = [each.value for each in shown]
        assert values == pytest.approx([row.step_ms for row in held])
    assert f"telemetry/{table.EPOCH}/loss" in events.Tags()["scalars"]


def test_a_timeline_opens_as_a_chrome_trace(tmp_path, caplog):
    telemetry = Telemetry(tmp_path, timeline=(3, 4))
    fit(compiled(), telemetry, epochs=1)
    (file,) = (tmp_path / "timeline").glob("*.json.gz")
    assert str(file) in caplog.text
    with gzip.open(file) as trace:
        events = json.load(trace)["traceEvents"]
    spans = [event for event in events if event["ph"] == "X"]
    assert all(event["dur"] >= 0 for event in spans)
    steps = [event for event in spans if event["name"] == "multi_step_on_iterator"]
    assert len(steps) == 2


def test_a_timeline_beside_another_profiler(tmp_path, caplog):
    tf.profiler.experimental.start(str(tmp_path / "other"))
    try:
        history = fit(compiled(), Telemetry(tmp_path, timeline=(2, 4)), epochs=1)
    finally:
        tf.profiler.experimental.stop()
    assert len(history["loss"]) == 1
    assert caplog.text.count("another profiler is running. HINT") == 1
    assert caplog.text.count("nothing was recorded") == 1


def test_a_timeline_that_never_began_is_told(tmp_path, caplog):
    fit(compiled(), Telemetry(tmp_path, timeline=True), epochs=1)
    assert re.search("no timeline: training ended after 6 .* step 11", caplog.text)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"every": 0}, "every"),
        ({"every": 1.5}, "every"),
        ({"log_dir": 5}, "log_dir.*5"),
        ({"log_dir": b"x"}, "log_dir.*b'x'"),
        ({"log_dir": ""}, "log_dir.*''"),
        ({"timeline": True}, "log_dir=None"),
        ({"log_dir": "x", "timeline": (0, 3)}, "timeline"),
        ({"log_dir": "x", "timeline": (5, 3)}, "timeline"),
        ({"log_dir": "x", "timeline": 7}, "timeline"),
    ],
)
def test_wrong_arguments_are_refused(arguments, words):
    with pytest.raises(ValueError, match=rf"{words}(.|\n)*HINT"):
        Telemetry(**arguments)


def test_a_folder_that_cannot_be_written_is_refused_before_training(tmp_path):
    (tmp_path / "file").touch()
    model = compiled()
    before = model.get_weights()[0].copy()
    with pytest.raises(ValueError, match=r"log_dir(.|\n)*HINT"):
        fit(model, Telemetry(tmp_path / "file" / "runs"))
    np.testing.assert_array_equal(model.get_weights()[0], before)


def test_a_full_disk_ends_the_files_and_not_the_training(tmp_path, caplog, monkeypatch):
    def append(self, rows):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(table.Writer, "append", append)
    history = fit(compiled(), Telemetry(tmp_path, 2), epochs=2)
    assert len(history["loss"]) == 2
    assert caplog.text.count("No space left on device") == 1
    assert caplog.text.count("HINT: Make room") == 1


def test_a_training_goes_on_beside_a_damaged_table(tmp_path, caplog):
    first = Telemetry(tmp_path, 2)
    model = compiled()
    fit(model, first, epochs=1)
    damaged = (tmp_path / table.FILE).read_bytes()[:-40] + b"\0" * 512 + b"\n"
    (tmp_path / table.FILE).write_bytes(damaged)
    again = Telemetry(tmp_path, 2)
    again.set_state([first.get_state()])
    fit(model, again, epochs=1)
    assert (tmp_path / table.PREVIOUS).read_bytes() == damaged
    steps = ROWS // BATCH
    assert {row.step for row in table.read(tmp_path / table.FILE)} > {2 * steps}
    assert "not what this version of Telemetry writes" in caplog.text


def test_two_are_refused():
    with pytest.raises(ValueError, match=r"two Telemetry(.|\n)*HINT"):
        fit(compiled(), Telemetry(), Telemetry())


def test_configuration_round_trips():
    config = json.loads(json.dumps(Telemetry("runs", 7, (2, 3)).get_config()))
    again = callbacks.Telemetry.from_config(config)
    assert (again.log_dir, again.every, again.timeline) == ("runs", 7, (2, 3))
    assert Telemetry.from_config(Telemetry().get_config()).timeline is None


def measured(*ranks) -> np.ndarray:
    """Ranks with (input, communication) seconds in 10 steps of 0.1 s, 50 examples."""
    return np.array([[10, 50, 1.0, *rank, 1e9, np.nan] for rank in ranks])


def test_the_slowest_rank_is_the_one_that_waits_least_for_others():
    found = measured((0.1, 0.6), (0.5, 0.1), (0.0, 0.5))
    assert figures.slowest(found) == 1
    assert figures.slowest(found[::-1]) == 1 and figures.slowest(found[:1]) == 0
    whole = figures.of_all(found)
    assert whole.examples_per_second == pytest.approx(150)
    assert whole.input_ms == pytest.approx(20)
    parts = whole.compute_ms + whole.input_ms + whole.communication_ms
    assert parts == pytest.approx(whole.step_ms)
    said = figures.advice(found, ["a", "b", "c"])
    assert re.search(r"Slowest: rank 1 on b, 90 ms .*median of all ranks: 50 ms", said)


def test_parts_add_up():
    both = figures.together(measured((0.1, 0.6)), measured((0.3, 0.2)))
    assert both[0, :5] == pytest.approx([20, 100, 2.0, 0.4, 0.8])
    assert both[0, 5] == 1e9 and np.isnan(both[0, 6])
    nothing = figures.nothing(1)
    np.testing.assert_array_equal(
        figures.together(nothing, measured((0.1, 0.6))), measured((0.1, 0.6))
    )


def test_an_iterator_that_is_slow_to_make_is_waiting_for_input():
    class SlowToBegin(keras.utils.PyDataset):
        def __len__(self):
            return ROWS // BATCH

        def __getitem__(self, number):
            return tuple(part[:BATCH] for part in data())

        def on_epoch_begin(self):
            time.sleep(12 * DELAY)

    model, telemetry = compiled(), Telemetry()
    history = model.fit(SlowToBegin(), epochs=3, verbose=0, callbacks=[telemetry])
    # The first epoch's belongs to the execution that traces.
    assert min(history.history["input_ms"][1:]) > 1.9e3 * DELAY
