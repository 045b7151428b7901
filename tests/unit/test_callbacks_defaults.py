"""The callbacks that most trainings want: which, in which order, told once."""

import keras
import numpy as np
import pytest

import tfdist
from tests.resumed_runs import start_anew
from tfdist.callbacks import defaults, everyday

NAMES = ["LearningRateScaling", "ReplicaConsistency", "Telemetry"]


@pytest.fixture(autouse=True)
def forgotten():
    everyday._say.cache_clear()


def names(callbacks):
    return [type(callback).__name__ for callback in callbacks]


def test_which_they_are(tmp_path):
    assert names(defaults()) == NAMES
    assert names(defaults(tmp_path)) == [*NAMES, "CheckpointRecovery"]


def test_arguments_reach_them(tmp_path):
    scaling, consistency, telemetry, recovery = defaults(
        tmp_path / "a",
        log_dir=tmp_path / "b",
        reference_batch_size=32,
        batch_size=64,
        rule="sqrt",
        warmup_epochs=1,
        every=7,
        action="warn",
    )
    assert (scaling.reference_batch_size, scaling.rule) == (32, "sqrt")
    assert (scaling.warmup_epochs, scaling.batch_size) == (1, 64)
    assert (consistency.every, consistency.action) == (7, "warn")
    assert (telemetry.every, telemetry.log_dir) == (7, str(tmp_path / "b"))
    assert recovery.directory == str(tmp_path / "a")


def test_they_are_told_once_as_they_would_be_written(caplog):
    for _ in range(2):
        defaults(reference_batch_size=32)
    (told,) = caplog.messages
    assert "LearningRateScaling(reference_batch_size=32), " in told
    assert "ReplicaConsistency(), Telemetry()" in told
    defaults(every=50)
    assert len(caplog.messages) == 2
    assert "ReplicaConsistency(every=50), Telemetry(every=50)" in caplog.messages[1]


def test_a_rule_that_cannot_be_written_down_is_told_by_its_name(caplog):
    def cubic(rate, ratio):
        return rate * ratio ** (1 / 3)

    assert defaults(rule=cubic)[0].rule is cubic
    (told,) = caplog.messages
    assert "LearningRateScaling(rule=cubic), " in told


@pytest.mark.parametrize(
    ("arguments", "excerpt"),
    [({"every": 0}, "every"), ({"action": "stop"}, "'stop'"), ({"rule": "l"}, "'l'")],
)
def test_wrong_arguments(arguments, excerpt):
    with pytest.raises(ValueError, match=r"Received: (.|\n)*HINT: ") as error:
        defaults(**arguments)
    assert excerpt in str(error.value)


def test_they_train_and_others_may_follow(tmp_path):
    arrays = np.ones((32, 2), "f"), np.ones((32, 1), "f")

    def trained():
        """As a script does it that is started."""
        start_anew()
        with tfdist.strategy("default").scope():
            model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
            model.compile(keras.optimizers.SGD(0.1), "mse")
        callbacks = [
            *defaults(
                tmp_path / "runs",
                log_dir=tmp_path / "logs",
                warmup_epochs=1,
                reference_batch_size=4,
            ),
            tfdist.callbacks.GradientCompression(),
            keras.callbacks.ReduceLROnPlateau("loss"),
            keras.callbacks.EarlyStopping("loss", patience=5),
            keras.callbacks.ModelCheckpoint(tmp_path / "model.keras"),
            keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        ]
        options = {"batch_size": 8, "epochs": 3, "verbose": 0, "shuffle": False}
        history = model.fit(*arrays, callbacks=callbacks, **options).history
        return history, model.get_weights()

    history, before = trained()
    assert len(history["loss"]) == 3
    assert history["learning_rate"][-1] == pytest.approx(0.2)
    assert (tmp_path / "logs" / "telemetry.csv").exists()
    again, after = trained()
    assert again == history  # complete: it is not repeated
    assert all(map(np.array_equal, before, after))


def test_twice_is_refused():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    arrays = np.ones((8, 2), "f"), np.ones((8, 1), "f")
    twice = [*defaults(warmup_epochs=0), *defaults(warmup_epochs=0)]
    with pytest.raises(ValueError, match="two LearningRateScaling"):
        model.fit(*arrays, callbacks=twice, verbose=0)
