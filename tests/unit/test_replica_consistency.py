"""ReplicaConsistency: arguments, when it compares, what it compares and says."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdist import cluster
from tfdist.callbacks import MixedPrecision, ReplicaConsistency
from tfdist.callbacks import replica_consistency as module
from tfdist.callbacks.replica_report import Report
from tfdist.callbacks.replica_state import common_variables
from tfdist.errors import TfdistError
from tfdist.strategies import group
from tfdist.strategies.comparison import Summary


@pytest.mark.parametrize(
    ("arguments", "excerpt"),
    [
        ({"every": 0}, "every"),
        ({"every": 2.5}, "2.5"),
        ({"action": "stop"}, "'stop'"),
        ({"ignore": "*/counter"}, "list of patterns"),
        ({"ignore": [3]}, "list of patterns"),
    ],
)
def test_wrong_arguments(arguments, excerpt):
    with pytest.raises(ValueError, match=r"Received: (.|\n)*HINT: ") as error:
        ReplicaConsistency(**arguments)
    assert excerpt in str(error.value)


def test_config_and_state_round_trips():
    callback = ReplicaConsistency(7, "repair", ignore=["*/counter"])
    again = ReplicaConsistency.from_config(callback.get_config())
    assert again.get_config() == callback.get_config()
    state = {"steps": 12, "compared": 9, "ended": 4, "repairs": 2}
    again.set_state([state])
    assert again.get_state() == state


def compiled(*layers, optimizer=None, **options):
    model = keras.Sequential([keras.Input((2,)), *layers, keras.layers.Dense(1)])
    model.compile(
        optimizer or keras.optimizers.SGD(0.1, momentum=0.9), "mse", **options
    )
    return model


def fit(model, *callbacks, epochs=1, steps=4):
    arrays = np.ones((2 * steps, 2), "f"), np.ones((2 * steps, 1), "f")
    options = {"batch_size": 2, "epochs": epochs, "verbose": 0}
    model.fit(*arrays, callbacks=list(callbacks), **options)


class FakeGroup:
    """Three replicas that always say the same."""

    def __init__(self, count=3):
        self.count = count
        self.is_of_script = False

    def name(self, number):
        return f"rank {number}"


def found(states=(1, 1, 1), layouts=(2, 2, 2), steps=(5, 5, 5)):
    return Summary(*(np.array(row, np.int64) for row in (states, layouts, steps)))


@pytest.fixture
def comparisons(monkeypatch):
    """The steps after which replicas are compared, as if there were several."""
    steps = []

    def summarize(group, variables, step):
        steps.append(step)
        return found()

    monkeypatch.setattr(module, "group_of", lambda model: FakeGroup())
    monkeypatch.setattr(module.comparison, "summarize", summarize)
    return steps


@pytest.mark.parametrize(
    ("every", "options", "expected"),
    [
        # The first, each tenth later, the ends of epochs that are far enough apart.
        (10, {"steps": 25, "epochs": 1}, [1, 11, 21, 25, 25]),
        (10, {"steps": 4, "epochs": 6}, [1, 12, 24, 24]),
        (1, {"steps": 2, "epochs": 2}, [1, 2, 2, 3, 4, 4, 4]),
        (100, {"steps": 4, "epochs": 3}, [1, 12]),
    ],
)
def test_when_it_compares(every, options, expected, comparisons):
    fit(compiled(), ReplicaConsistency(every), **options)
    assert comparisons == expected


def test_executions_of_several_steps_are_compared_at_their_end(comparisons):
    fit(compiled(steps_per_execution=4), ReplicaConsistency(2), steps=8)
    assert comparisons == [4, 8, 8, 8]


def test_it_goes_on_counting_where_it_was(comparisons):
    callback = ReplicaConsistency(10)
    callback.set_state([{"steps": 28, "compared": 21, "ended": 20, "repairs": 0}])
    fit(compiled(), callback, steps=4)
    assert comparisons == [29, 32, 32]  # the first of a fit; 12 since an epoch's end


def test_a_fit_without_a_step_is_not_compared(comparisons):
    fit(compiled(), ReplicaConsistency(1), epochs=0)
    assert comparisons == []


def test_one_replica_is_not_compared(monkeypatch):
    monkeypatch.setattr(module.comparison, "summarize", lambda *given: 1 / 0)
    fit(compiled(), ReplicaConsistency(1))


def test_saving_before_the_comparison_is_refused(tmp_path):
    save = keras.callbacks.ModelCheckpoint(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="ModelCheckpoint before ReplicaConsistency"):
        fit(compiled(), save, ReplicaConsistency())
    fit(compiled(), ReplicaConsistency(), save)


def paths(model, **options):
    options = {"settled": False} | options
    return [v.path.split("/")[-1] for v in common_variables(model, **options)]


def test_what_is_compared():
    model = compiled(
        keras.layers.Dense(3, name="inner"),
        keras.layers.Dropout(0.5),
        optimizer=keras.optimizers.SGD(
            0.1, momentum=0.9, gradient_accumulation_steps=2
        ),
        metrics=["mae"],
    )
    fit(model, MixedPrecision("mixed_float16"))
    names = paths(model)
    assert names[0] == "iteration"
    assert sum("momentum" in name for name in names) == 4
    assert sum("accumulator" in name for name in names) == 0
    assert any("accumulator" in v.path for v in model.optimizer.variables)
    assert "dynamic_scale" in names
    assert names.count("kernel") == 2
    assert not {"total", "count"} & set(names)  # of metrics
    ignored = paths(model, ignore=["*/inner/*"])
    assert ignored.count("kernel") == 1


def test_a_model_that_trains_itself_has_only_weights():
    model = compiled()
    model.compile(optimizer=None, loss="mse")
    assert sorted(paths(model)) == ["bias", "kernel"]


class FakeVariable:
    path, shape = "dense/kernel", (2, 3)


class FakeHorovod:
    """The first of two ranks; the other says the same, or something else."""

    Sum = "sum"

    def __init__(self, surplus):
        self.surplus = surplus

    def rank(self):
        return 0

    def size(self):
        return 2

    def allreduce(self, rows, **options):
        return rows + tf.roll(rows + self.surplus * tf.sign(rows), 1, 0)


def under_horovodrun(monkeypatch, surplus):
    fake = FakeHorovod(surplus)
    monkeypatch.setattr(cluster, "_installed", None)  # as another test has left it
    monkeypatch.setenv("HOROVOD_RANK", "0")
    monkeypatch.setenv("HOROVOD_SIZE", "2")
    monkeypatch.setattr(group, "_horovod_of_the_script", lambda: fake)
    fit(compiled(keras.layers.Dropout(0.5)), ReplicaConsistency(2))


def test_a_script_that_uses_horovod_itself(monkeypatch):
    under_horovodrun(monkeypatch, surplus=0)
    with pytest.raises(TfdistError, match="rank 1 than on rank 0"):
        under_horovodrun(monkeypatch, surplus=1)


def test_processes_that_nothing_connects(monkeypatch):
    tasks = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker"}}
    tasks["task"]["index"] = 0
    monkeypatch.setattr(cluster, "_installed", None)
    monkeypatch.setenv("TF_CONFIG", json.dumps(tasks))
    with pytest.raises(ValueError, match=r"nothing connects(.|\n)*HINT"):
        fit(compiled(), ReplicaConsistency())


def report(monkeypatch, count=3, **said):
    module_of_report = __import__("tfdist.callbacks.replica_report", fromlist=["x"])
    one = module_of_report.Difference(FakeVariable, [1, 2], 0.125, 4)
    monkeypatch.setattr(module_of_report, "measure", lambda group, shown: [one])
    return Report(FakeGroup(count), "after step 3 of epoch 1"), found(**said)


def test_it_says_what_differs_where_and_by_how_much(monkeypatch):
    words, said = report(monkeypatch, states=(1, 2, 3))
    text = words.of_values(said, [FakeVariable])
    assert "'dense/kernel' on rank 1 and rank 2 (by up to 0.125, in 4 of 6" in text
    assert "after step 3 of epoch 1" in text
    assert "action='repair'" in text


def test_it_says_if_the_first_replica_is_the_odd_one(monkeypatch):
    words, said = report(monkeypatch, states=(1, 2, 2))
    assert "rank 0 itself may be wrong" in words.of_values(said, [FakeVariable])
    words, said = report(monkeypatch, states=(1, 1, 2))
    assert "may be wrong" not in words.of_values(said, [FakeVariable])


def test_it_names_ranks_that_are_out_of_step(monkeypatch):
    words, said = report(monkeypatch, steps=(5, 5, 4))
    assert "rank 2 at step 4, rank 0 at step 5" in words.of_values(said, [])
