"""CheckpointRecovery in one process: arguments, mismatches, the life of a training."""

import dataclasses
import gc
import json
import os
import random
import shutil
import signal
import weakref
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.parallel.setting import Rendezvous, Setting
from tests.parallel.training import regression, sgd
from tests.resumed_runs import BreakOff, BrokenOffError, Run, state_of
from tfdist.callbacks import CheckpointRecovery, keras_states
from tfdist.checkpoint.errors import CheckpointError
from tfdist.checkpoint.manifest import decode, encode
from tfdist.checkpoint.store import Store
from tfdist.strategies import fits

layers = keras.layers
fits.install()


@pytest.fixture
def setting(tmp_path):
    return Setting("test", None, 0, 1, tmp_path, Rendezvous(tmp_path / "meet", 0, 1))


@pytest.fixture
def run(setting):
    return Run(setting)


@pytest.mark.parametrize(
    ("arguments", "excerpt"),
    [
        ({"directory": 3}, "a path"),
        ({"directory": " "}, "a path"),
        ({"every_steps": 0}, "every_steps"),
        ({"every_steps": -5}, "every_steps"),
        ({"every_steps": "often"}, "every_steps"),
        ({"every_seconds": -1.0}, "every_seconds"),
        ({"every_seconds": 0}, "every_seconds"),
        ({"every_steps": 5, "every_seconds": 5.0}, "one of them"),
        ({"keep": 0}, "keep"),
        ({"keep_every": 0}, "keep_every"),
        ({"keep_best": "val_accuracy"}, "('val_accuracy', 'max')"),
        ({"keep_best": ("loss", "least")}, "mode"),
        ({"time_between_failures": 0}, "time_between_failures"),
        ({"overhead": float("nan")}, "overhead"),
        ({"timeout": -1}, "timeout"),
    ],
)
def test_wrong_arguments(arguments, excerpt):
    with pytest.raises(ValueError, match="Received: ") as error:
        CheckpointRecovery(**{"directory": "runs", **arguments})
    assert excerpt in str(error.value)
    assert "HINT: " in str(error.value)


def test_config_round_trip(tmp_path):
    callback = CheckpointRecovery(tmp_path, 7, keep_best="val_loss", overhead=0.02)
    again = CheckpointRecovery.from_config(
        json.loads(json.dumps(callback.get_config()))
    )
    assert again.get_config() == callback.get_config()


def test_the_best_interval_has_a_name(tmp_path):
    named = CheckpointRecovery(tmp_path, "auto", "auto")
    assert named.get_config() == CheckpointRecovery(tmp_path).get_config()


@pytest.mark.failure(44)
def test_a_directory_that_cannot_be_used_is_refused_before_the_first_step(run):
    run.directory.write_text("a file")
    steps = []
    note = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: steps.append(batch)
    )
    with pytest.raises(CheckpointError, match="HINT: "):
        run.fit(run.model(), run.recovery(), note)
    assert steps == []


def test_one_recovery_in_a_fit_and_none_beside_it(run, tmp_path):
    with pytest.raises(ValueError, match="two CheckpointRecovery"):
        run.fit(run.model(), run.recovery(), run.recovery())
    other = keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))
    with pytest.raises(ValueError, match="BackupAndRestore"):
        run.fit(run.model(), run.recovery(), other)


def test_optimizers_that_keras_does_not_know_of_are_not_forgotten(run):
    model = run.model()
    model.second = keras.optimizers.Adam()
    with pytest.raises(ValueError, match=r"model\.second(.|\n)*HINT"):
        run.fit(model, run.recovery())


@pytest.mark.parametrize("known", [False, True])
def test_state_that_keras_does_not_know_of_is_said_at_the_start(run, caplog, known):
    model = run.model()
    kind = keras.Variable if known else tf.Variable
    model.rounds = kind(0.0, trainable=False)
    run.fit(model, run.recovery())
    assert (f"{model.name}.rounds" in caplog.text) is not known


class Outer(keras.Model):
    """The perceptron, with what a test adds to it."""

    def __init__(self, *parts):
        super().__init__()
        self.parts = list(parts)

    def call(self, inputs):
        for part in self.parts:
            inputs = part(inputs)
        return inputs


def dense(units=6, **options):
    return Outer(layers.Dense(units, **options), layers.Dropout(0.1), layers.Dense(1))


OTHERS = {
    "shape": (lambda: dense(7), sgd, "float32[8, 6] in the checkpoint, float32[8, 7]"),
    "dtype": (lambda: dense(dtype="float64"), sgd, "float64[8, 6] in the model"),
    "missing": (
        lambda: Outer(layers.Dense(6), layers.Dense(1)),
        sgd,
        "1.Dropout: a layer in the checkpoint, none in the model",
    ),
    "extra": (
        lambda: Outer(*dense().parts, layers.Dense(1)),
        sgd,
        "3.Dense: none in the checkpoint, a layer in the model",
    ),
    "bias": (
        lambda: dense(use_bias=False),
        sgd,
        "0.Dense/bias: only in the checkpoint",
    ),
    "optimizer": (dense, keras.optimizers.Adam, "['SGD'] in the checkpoint, ['Adam']"),
    "momentum": (dense, keras.optimizers.SGD, "momentum"),
}


@pytest.mark.failure(39)
@pytest.mark.parametrize("kind", OTHERS)
def test_another_model_or_optimizer_is_refused_and_nothing_changed(setting, kind):
    Run(setting, build=dense).broken_off(7, 6)
    build, optimizer, excerpt = OTHERS[kind]
    other = Run(setting, build=build, optimizer=optimizer)
    model = other.model()
    model(np.zeros((1, 8)))
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"nothing was\s+changed") as error:
        other.fit(model, other.recovery())
    assert excerpt in str(error.value)
    for one, same in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, same)


@pytest.mark.failure(39)
def test_names_that_count_other_models_do_not_matter(setting):
    run = Run(setting, build=dense)
    whole = run.whole()
    run.broken_off(7, 6)
    for _ in range(3):
        dense()(np.zeros((1, 8)))
    assert not run.differences(whole, run.resumed())


class Unnamed(layers.Layer):
    """Has a weight that Keras calls variable_7, or whatever comes next."""

    def build(self, shape):
        self.scale = self.add_weight(shape=shape[-1:], initializer="ones")

    def call(self, inputs):
        return inputs * self.scale


@pytest.mark.failure(20, 39)
def test_variables_without_a_name_are_found_again(setting):
    # Nadam has one, too.
    Run(
        setting,
        build=lambda: Outer(Unnamed(), layers.Dense(1)),
        optimizer=lambda: keras.optimizers.Nadam(0.01),
    ).check()


@pytest.mark.failure(40)
def test_a_newer_format_is_refused(run):
    run.broken_off(7, 6)
    path = run.directory / "step-00000006" / "MANIFEST.json"
    newer = dataclasses.replace(decode(path.read_bytes(), "it"), format=99)
    path.write_bytes(encode(newer))
    with pytest.raises(CheckpointError, match=r"newer(.|\n)*HINT"):
        run.resumed()


@pytest.mark.failure(3)
def test_a_damaged_checkpoint_is_passed_over_and_said(run, caplog):
    whole = run.whole()
    run.broken_off(10, 9)
    (path,) = (run.directory / "step-00000009").glob("common*")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert not run.differences(whole, run.resumed())
    assert run.resumed_step == 6
    assert caplog.text.count("passes over") == 1
    assert path.name in caplog.text


@pytest.mark.failure(18)
def test_a_state_that_is_not_finite_is_the_last_resort(run, caplog):
    class Spoil(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if self.model.optimizer.iterations == 9:
                self.model.layers[0].bias.assign(np.full(6, np.nan))

    model = run.model()
    breaking = BreakOff(10, 9, run.directory)
    with pytest.raises(BrokenOffError):
        run.fit(model, run.recovery(), Spoil(), breaking)
    run.resumed()
    assert run.resumed_step == 6
    assert "step 9: it holds infinities or NaN" in caplog.text


@pytest.mark.failure(41)
def test_a_finished_run_returns_at_once(run):
    whole = run.whole()
    run.resumed()
    steps = []
    note = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: steps.append(batch)
    )
    again = run.resumed(note)
    assert (steps, run.resumed_step) == ([], 12)
    assert not run.differences(whole, again)


def of_unknown_length():
    dataset = tf.data.Dataset.from_tensor_slices(regression(57))
    return dataset.filter(lambda *row: True).batch(16)


def epochs_ended(run):
    """Start a finished run again; return the epochs whose ends are made once more."""
    ends = []
    note = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: ends.append(epoch)
    )
    run.resumed(note)
    return ends


@pytest.mark.failure(23, 41)
@pytest.mark.filterwarnings("ignore:.*ran out of data")
def test_a_save_due_after_the_last_batch_is_of_the_end_of_the_epoch(setting):
    # Of the first epoch it is not known before that this batch is its last one.
    run = Run(setting, data=of_unknown_length, shuffle=False)
    whole = run.whole()
    finished = run.fit(run.model(), run.recovery(4, keep_best="loss"))
    store = Store(run.directory)
    manifests = [store.manifest(step) for step in store.steps()]
    assert [each.details["batch"] for each in manifests] == [0, 0, 0]
    losses = [each.metrics["loss"] for each in reversed(manifests)]
    assert losses == finished.history["loss"] == whole[1].history["loss"]
    assert epochs_ended(run) == []


@pytest.mark.failure(33, 41)
def test_a_run_that_had_to_leave_in_its_last_validation_is_finished_once(setting):
    class Leave(keras.callbacks.Callback):
        batches = 0

        def on_test_batch_end(self, batch, logs=None):
            self.batches += 1
            if self.batches == 5:
                os.kill(os.getpid(), signal.SIGTERM)

    run = Run(setting, validation_data=regression(20))
    whole = run.whole()
    with pytest.raises(SystemExit):
        run.fit(run.model(), run.recovery(100), Leave())
    assert not run.differences(whole, run.resumed())
    assert run.resumed_step == 12
    assert epochs_ended(run) == []


@pytest.mark.failure(41)
def test_epochs_raised_go_on_exactly_and_lowered_end(run):
    run.fit(run.model(), run.recovery(), epochs=2)
    raised = run.resumed()
    assert run.resumed_step == 8
    assert not run.differences(run.whole(), raised)
    lowered = run.resumed(epochs=1)
    assert not run.differences(raised, lowered)


@pytest.mark.failure(41)
def test_training_that_was_stopped_early_stays_so(setting):
    def callbacks():
        return [
            keras.callbacks.EarlyStopping(
                "loss", min_delta=10.0, patience=2, restore_best_weights=True
            )
        ]

    run = Run(setting, callbacks, epochs=6)
    whole = run.whole()
    assert len(whole[1].epoch) == 3
    run.resumed()
    again = run.resumed()
    assert run.resumed_step == 12
    assert not run.differences(whole, again)


@pytest.mark.failure(41)
def test_the_same_objects_go_on_after_an_exception(run):
    whole = run.whole()
    model, recovery = run.model(), run.recovery()
    with pytest.raises(BrokenOffError):
        run.fit(model, recovery, BreakOff(7, 6, run.directory))
    history = run.fit(model, recovery)
    assert recovery.resumed_step == 6
    assert not run.differences(whole, (model, history))
    # Nothing of the resumed fit is left behind.
    assert model.fit(*regression(), epochs=2, verbose=0).epoch == [0, 1]


@pytest.mark.failure(41)
def test_training_broken_off_by_a_callback_goes_on_within_the_epoch(run):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = self.model.optimizer.iterations == 6

    whole = run.whole()
    run.fit(run.model(), run.recovery(1000), Stop())
    resumed = run.resumed()
    assert run.resumed_step == 6
    assert not run.differences(whole, resumed)


def two_fits(run, *others):
    """Train twice in one script, as it is started anew after each crash."""
    model, recovery = run.model(), run.recovery()
    first = run.fit(model, recovery, epochs=2)
    second = run.fit(model, recovery, *others, epochs=3)
    return model, first, second, recovery


@pytest.mark.failure(41)
def test_the_second_fit_of_a_script_goes_on(run, caplog):
    whole, first, second, _ = two_fits(run)
    shutil.rmtree(run.directory)
    with pytest.raises(BrokenOffError):
        two_fits(run, BreakOff(8, 15, run.directory))
    model, skipped, resumed, recovery = two_fits(run)
    assert recovery.resumed_step == 15
    assert "is skipped" in caplog.text
    assert skipped.history == first.history
    assert not run.differences((whole, second), (model, resumed))


@pytest.mark.failure(41)
def test_a_fit_after_one_that_a_callback_has_ended_is_another_one(run):
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = True

    def script(*others):
        model, recovery = run.model(), run.recovery()
        run.fit(model, recovery, Stop())
        return model, run.fit(model, recovery, *others, epochs=2)

    whole = script()
    assert whole[1].epoch == [0, 1]
    shutil.rmtree(run.directory)
    with pytest.raises(BrokenOffError):
        script(BreakOff(6, 9, run.directory))
    assert not run.differences(whole, script())


@pytest.mark.failure(41)
def test_a_new_callback_in_each_call_of_fit_counts_them_too(run):
    def script(*others):
        model = run.model()
        run.fit(model, run.recovery(), epochs=1)
        return model, run.fit(model, run.recovery(), *others, epochs=2)

    whole = script()
    assert whole[0].optimizer.iterations == 12
    shutil.rmtree(run.directory)
    with pytest.raises(BrokenOffError):
        script(BreakOff(6, 9, run.directory))
    assert not run.differences(whole, script())


def test_a_directory_that_was_removed_between_two_fits_begins_anew(run):
    model, recovery = run.model(), run.recovery()
    run.fit(model, recovery)
    shutil.rmtree(run.directory)
    run.fit(model, recovery, epochs=1)
    steps = sorted(path.name for path in run.directory.glob("step-*"))
    assert steps == ["step-00000003", "step-00000004"]
    again = run.recovery()
    assert run.fit(run.model(), again, epochs=1).epoch == [0]
    assert again.resumed_step == 4


def test_the_checkpoint_is_not_kept_in_memory(run):
    assert run.recovery().resumed_step is None
    run.broken_off(7, 6)
    loaded = []
    load = Store.load

    def note(store, *arguments):
        loaded.append(weakref.ref(load(store, *arguments)))
        return loaded[0]()

    held = []
    look = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: held.append(loaded[0]() is not None)
    )
    with mock.patch.object(Store, "load", note):
        run.resumed(look)
    gc.collect()
    assert loaded[0]() is None
    assert not any(held[1:])


@pytest.mark.failure(24, 41)
def test_a_skipped_fit_keeps_its_log_and_its_statistics(setting, tmp_path):
    logs = [tmp_path / "first.csv", tmp_path / "second.csv"]

    def normalized():
        return keras.Sequential(
            [layers.Input((8,)), layers.BatchNormalization(), layers.Dense(1)]
        )

    def script(run, *others):
        model, recovery = run.model(), run.recovery()
        first, second = (keras.callbacks.CSVLogger(path) for path in logs)
        run.fit(model, recovery, first, epochs=5)
        between = model.layers[0].moving_mean.numpy()
        try:
            run.fit(model, recovery, second, *others, epochs=3)
        finally:
            second.csv_file.close()  # Keras leaves it open when fit fails
        return between

    run = Run(setting, build=normalized)
    with pytest.raises(BrokenOffError):
        script(run, BreakOff(8, 27, run.directory))
    written = logs[0].read_text()
    between = script(run)
    assert logs[0].read_text() == written
    assert len(logs[1].read_text().splitlines()) == 4
    assert np.all(between != 0)  # as it was in that step


def test_one_directory_for_one_model(run):
    recovery = run.recovery()
    model = run.model()
    run.fit(model, recovery)
    with pytest.raises(ValueError, match="of one model"):
        run.fit(run.model(), recovery)


@pytest.mark.failure(41)
def test_folds_in_one_directory_do_not_take_each_other_s_weights(run):
    models = [run.model() for _ in range(3)]
    run.fit(models[0], run.recovery())
    with pytest.raises(ValueError, match=r"for each fold(.|\n)*HINT: Checkpoint"):
        run.fit(models[1], run.recovery())
    for number, model in enumerate(models):
        fold = CheckpointRecovery(run.directory / str(number), 3)  # as the hint says
        assert run.fit(model, fold).epoch == [0, 1, 2]
        assert fold.resumed_step is None
    shutil.rmtree(run.directory)  # to begin anew in it is no mistake
    assert run.fit(models[1], run.recovery()).epoch == [0, 1, 2]


VALIDATED = {"validation_data": regression(20), "validation_freq": 2}


@pytest.mark.parametrize(
    ("metric", "options", "excerpts"),
    [
        ("val_mea", VALIDATED, ["loss, mae, val_loss, val_mae", "('val_mae', 'max')"]),
        ("val_mae", {}, ["loss, mae", "validation_data"]),
        ("mae", {}, []),
        ("val_mae", VALIDATED, []),
        ("val_loss", {"validation_split": 0.2}, []),
    ],
)
def test_a_best_metric_that_cannot_be_there_is_refused_before_the_first_step(
    setting, caplog, metric, options, excerpts
):
    run = Run(setting, compiled={"metrics": ["mae"]}, **options)
    model, recovery = run.model(), run.recovery(keep_best=(metric, "max"))
    if not excerpts:
        run.fit(model, recovery)
        assert "keeps no best" not in caplog.text
        return
    with pytest.raises(ValueError, match="keep_best") as error:
        run.fit(model, recovery)
    assert all(excerpt in str(error.value) for excerpt in excerpts)
    assert model.optimizer.iterations == 0


@pytest.mark.parametrize("metric", ["bleu", "blue", "val_loss"])
def test_a_best_metric_that_a_callback_might_have_added_is_told_of_once(
    run, caplog, metric
):
    class Score(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["bleu"] = float(epoch)

    run.fit(run.model(), run.recovery(keep_best=(metric, "max")), Score())
    assert caplog.text.count("keeps no best") == (metric != "bleu")
    assert caplog.text.count("HINT: keep_best=('bleu', 'max')") == (metric == "blue")
    assert len(Store(run.directory).steps()) == 3


@pytest.mark.failure(10)
@pytest.mark.parametrize("every", [4, 3])  # epochs have 4 steps
def test_the_best_checkpoint_stays(run, every):
    ends = {}
    note = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: ends.update(
            {logs["val_loss"]: (4 * (epoch + 1), model.layers[0].get_weights()[0])}
            if "val_loss" in logs
            else {}
        )
    )
    rates = iter([0.1, 0.1, 0.1, 0.1, 10.0, 10.0])
    raise_rate = keras.callbacks.LearningRateScheduler(lambda epoch: next(rates))
    recovery = run.recovery(every, keep=1, keep_best="val_loss")
    model = run.model()
    options = {"validation_data": regression(20), "validation_freq": 2}
    run.fit(model, recovery, raise_rate, note, epochs=6, **options)
    best, weights = ends[min(ends)]
    assert best == 16
    store = Store(run.directory)
    assert store.steps() == (24, 16)
    saved = store.load(16)
    assert saved.manifest.metrics["val_loss"] == min(ends)
    assert any(np.array_equal(value, weights) for value in saved.common.values())


@pytest.mark.failure(22)
def test_random_states_of_python_numpy_and_keras_go_on(setting):
    drawn = []

    class Draw(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            drawn.append(
                (
                    random.random(),
                    float(np.random.rand()),
                    float(tf.random.uniform([])),
                    float(keras.random.uniform([])),
                )
            )

    run = Run(setting, lambda: [Draw()])
    run.whole()
    whole = drawn[:]
    run.broken_off(7, 6)
    drawn.clear()
    run.resumed()
    assert drawn == whole[6:]


@pytest.mark.failure(24)
def test_a_user_s_callback_may_reset_itself_when_fit_or_an_epoch_begins(setting):
    class Count(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            kept.append(self)

        def on_train_begin(self, logs=None):
            self.batches, self.epochs = [0], []

        def on_epoch_begin(self, epoch, logs=None):
            self.epochs.append(epoch)

        def on_train_batch_end(self, batch, logs=None):
            self.batches[0] += 1

        def get_state(self):
            return {"batches": self.batches, "epochs": self.epochs}

        def set_state(self, states):
            (state,) = states
            self.batches, self.epochs = state["batches"], state["epochs"]

    kept = []
    run = Run(setting, lambda: [Count()])
    run.check()
    for callback in (kept[0], kept[-1]):
        assert (callback.batches, callback.epochs) == ([12], [0, 1, 2])


@pytest.mark.failure(24)
@pytest.mark.parametrize("forgotten", [False, True])
def test_model_checkpoint_goes_on_with_its_best_and_its_batches(
    setting, monkeypatch, forgotten
):
    files = setting.directory / "files"

    def callbacks():
        rate = keras.callbacks.LearningRateScheduler(lambda n: 0.1 if n < 2 else 10.0)
        kept = keras.callbacks.ModelCheckpoint
        best = kept(files / "best-{epoch}.keras", "loss", save_best_only=True)
        return [rate, best, kept(files / "often-{epoch}-{batch}.keras", save_freq=3)]

    def saved():
        return {path.stem for path in files.glob("*")}

    if forgotten:  # the control
        monkeypatch.delitem(keras_states._ATTRIBUTES, keras.callbacks.ModelCheckpoint)
    run = Run(setting, callbacks, epochs=4)
    run.whole()
    whole = saved()
    batches = ("1-3", "2-2", "3-1", "3-4", "4-3")
    assert whole == {"best-1", "best-2", *(f"often-{each}" for each in batches)}
    shutil.rmtree(files)
    run.broken_off(11, 10, every=5)
    run.resumed()
    assert run.resumed_step == 10
    assert (saved() == whole) is not forgotten


@pytest.mark.parametrize("method", ["get_state", "set_state"])
def test_a_state_that_could_not_be_put_back_is_refused_at_once(run, method):
    half = keras.callbacks.Callback()
    setattr(half, method, dict)
    with pytest.raises(ValueError, match=rf"{method} alone(.|\n)*HINT: "):
        run.fit(run.model(), run.recovery(), half)


def test_a_state_that_cannot_be_saved_is_refused_before_the_first_step(run):
    steps = []
    callback = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: steps.append(batch)
    )
    callback.get_state = lambda: {"model": run}
    callback.set_state = list
    with pytest.raises(TypeError, match=r"LambdaCallback(.|\n)*HINT: "):
        run.fit(run.model(), run.recovery(), callback)
    assert steps == []


class Noisy(layers.Layer):
    """Adds noise, drawn by TensorFlow in one way or another, or by Keras."""

    def __init__(self, draw):
        super().__init__()
        self.draw = draw
        self.seeds = keras.random.SeedGenerator(1)

    def call(self, inputs):
        noise = {
            "normal": lambda: tf.random.normal(tf.shape(inputs), seed=3),
            "in a function": tf.function(lambda: tf.random.uniform(tf.shape(inputs))),
            "in a branch": lambda: tf.cond(
                tf.reduce_sum(inputs) > 0,
                lambda: tf.random.truncated_normal(tf.shape(inputs)),
                lambda: tf.zeros_like(inputs),
            ),
            "keras": lambda: keras.random.normal(
                keras.ops.shape(inputs), seed=self.seeds
            ),
        }
        return inputs + noise[self.draw]()


@pytest.mark.failure(22)
@pytest.mark.parametrize(
    ("draw", "operation"),
    [
        ("normal", "RandomStandardNormal"),
        ("in a function", "RandomUniform"),
        ("in a branch", "TruncatedNormal"),
        ("keras", None),
    ],
)
def test_draws_of_tensorflow_in_a_step_are_said_at_the_start(
    setting, caplog, draw, operation
):
    run = Run(
        setting,
        build=lambda: Outer(Noisy(draw), layers.Dense(1)),
        compiled={"steps_per_execution": 2},
    )
    run.fit(run.model(), run.recovery())
    assert caplog.text.count("training step draws") == (operation is not None)
    assert operation is None or f"({operation})" in caplog.text
    if operation is None:  # the control: these are repeated
        run.check(after=4, step=6)


@pytest.mark.failure(22)
@pytest.mark.parametrize("draws", [False, True])
def test_a_py_dataset_that_draws_from_numpy_is_said_at_the_start(
    setting, caplog, draws
):
    class Drawing(Batches):
        def __getitem__(self, index):
            inputs, targets = super().__getitem__(index)
            return inputs + (np.random.rand() if draws else 0.5), targets

    drawn = []
    note = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: drawn.append(np.random.rand()),
        on_train_batch_end=lambda batch, logs: drawn.append(np.random.rand()),
    )
    run = Run(setting, data=Drawing)
    run.fit(run.model(), run.recovery(), note)
    assert caplog.text.count("NumPy's global generator") == draws


class Batches(keras.utils.PyDataset):
    """Four batches, which Keras shuffles from Python's random state."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return tuple(part[index * 14 : index * 14 + 14] for part in regression(56))


@pytest.mark.failure(23)
def test_a_py_dataset_that_keras_shuffles_goes_on_in_its_order(setting):
    Run(setting, data=Batches).check()


def test_state_of_sees_one_bit(run):
    model, history = run.whole()
    before = state_of(model, history)
    model.layers[-1].bias.assign_add([1e-6])
    assert [b.tobytes() for _, b in before] != [
        b.tobytes() for _, b in state_of(model, history)
    ]


def test_files_are_for_their_owner_alone(run):
    run.fit(run.model(), run.recovery())
    assert os.stat(run.directory).st_mode & 0o777 == 0o700
