"""A fit goes on with exactly the batches that the interrupted one had left."""

import math
import random
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager import context

from tfdist.checkpoint import randomness
from tfdist.checkpoint.position import Position
from tfdist.errors import TfdistError
from tfdist.strategies import fits
from tfdist.strategies.course import course_of

EXAMPLES = 21  # five batches of 4 and one of 1
EPOCHS = 3
IDS = np.arange(EXAMPLES, dtype="float32")[:, None]
TARGETS = np.zeros((EXAMPLES, 1), "float32")


class Follow(keras.callbacks.Callback):
    """Notes every event, and what is needed to resume after it."""

    def __init__(self, start=None):
        super().__init__()
        fits.install()
        self.start = start
        self.logs = {} if start is None else start[1]  # of the last batch
        self.events = []
        self.saved = []  # one for each event, with the number of batches seen by then

    def note(self, event, position, logs):
        self.events.append(event)
        state = self.course.state(position)
        now = randomness.random_state()
        self.saved.append((state, dict(logs or {}), now, len(self.model.seen)))

    def on_train_begin(self, logs=None):
        self.course = course_of(self.model)
        if self.start is not None:
            state, logs, now, _ = self.start
            self.course.resume(state, logs)
            randomness.set_random_state(now)

    def on_train_batch_begin(self, batch, logs=None):
        self.events.append(("begin", batch))
        self.saved.append(None)

    def on_train_batch_end(self, batch, logs=None):
        position = self.course.position()
        assert position.batch > batch
        self.logs = dict(logs)
        self.note(("end", position.epoch, batch), position, logs)

    def on_test_batch_end(self, batch, logs=None):
        position = self.course.position()
        self.note(("test", position.epoch, batch), position, self.logs)

    def on_epoch_end(self, epoch, logs=None):
        event = ("epoch", epoch, sorted(logs))
        self.note(event, self.course.next_epoch(), logs)


class Seen(keras.Model):
    """Trains nothing, and notes the identities of the examples in each batch."""

    def __init__(self):
        super().__init__()
        self.seen = []
        self.dense = keras.layers.Dense(1)

    def call(self, inputs):
        return self.dense(inputs)

    def train_step(self, data):
        self.seen.append(data[0].numpy().ravel().astype(int).tolist())
        return {"loss": tf.constant(1.0)}


class Reordered(keras.utils.PyDataset):
    """Draws a new order at the end of each epoch, from NumPy's own state."""

    def __init__(self, **options):
        super().__init__(**options)
        self.order = np.arange(EXAMPLES)

    def __len__(self):
        return math.ceil(EXAMPLES / 4)

    def __getitem__(self, index):
        rows = self.order[index * 4 : index * 4 + 4]
        return IDS[rows], TARGETS[rows]

    def on_epoch_end(self):
        np.random.shuffle(self.order)


def generator():
    while True:
        for start in range(0, EXAMPLES, 4):
            yield IDS[start : start + 4], TARGETS[start : start + 4]


def shuffled(size=4):
    data = tf.data.Dataset.from_tensor_slices((IDS, TARGETS))
    return data.shuffle(EXAMPLES, seed=5).batch(size)


def unknown(size=4):
    return shuffled(size).filter(lambda ids, targets: True)


# name -> (the data, what `fit` is called with)
DATA = {
    "arrays": (lambda: (IDS, TARGETS), {"batch_size": 4}),
    "arrays, whole batches shuffled": (
        lambda: (IDS, TARGETS),
        {"batch_size": 4, "shuffle": "batch"},
    ),
    "class weights": (lambda: (IDS, TARGETS[:, 0]), {"class_weight": {0: 2.0}}),
    "sample weights": (lambda: (IDS, TARGETS, TARGETS[:, 0]), {}),
    "shuffled dataset": (lambda: (shuffled(),), {}),
    "steps of an endless dataset": (
        lambda: (shuffled().repeat(),),
        {"steps_per_epoch": 4},
    ),
    "steps of a finite dataset": (lambda: (shuffled(2),), {"steps_per_epoch": 4}),
    "unknown length": (lambda: (unknown(),), {}),
    "steps of unknown length": (lambda: (unknown(2),), {"steps_per_epoch": 4}),
    "PyDataset in order": (lambda: (Reordered(),), {"shuffle": False}),
    "PyDataset shuffled": (lambda: (Reordered(),), {}),
    "PyDataset with workers": (lambda: (Reordered(workers=2),), {"shuffle": False}),
    "generator": (lambda: (generator(),), {"steps_per_epoch": 4}),
}


def train(data, options=None, together=1, start=None, epochs=EPOCHS, seed=3):
    keras.utils.set_random_seed(seed)
    model = Seen()
    model.compile("sgd", "mse", run_eagerly=True, steps_per_execution=together)
    follow = Follow(start)
    x, y, weights = (*data(), None, None)[:3]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*ran out of data")
        warnings.filterwarnings("ignore", message=".*shuffle=True. was passed")
        model.fit(
            x,
            y,
            sample_weight=weights,
            epochs=epochs,
            verbose=0,
            callbacks=[follow],
            **(options or {}),
        )
    return model.seen, follow


@pytest.mark.failure(23)
@pytest.mark.parametrize(
    "name, together",
    [
        *((name, 1) for name in DATA),
        ("arrays", 4),
        ("shuffled dataset", 4),
        ("steps of an endless dataset", 4),
        ("unknown length", 4),
        ("PyDataset shuffled", 4),
    ],
)
def test_a_resumed_fit_sees_what_the_interrupted_one_had_left(name, together):
    data, options = DATA[name]
    seen, follow = train(data, options, together)
    ends = [number for number, saved in enumerate(follow.saved) if saved is not None]
    # One at random, the end of the second epoch, and that of its last batch.
    chosen = {random.Random(name).choice(ends)}
    chosen |= {n for n in ends if follow.events[n][:2] == ("epoch", 1)}
    if "workers" not in name:  # they may, or may not, have drawn the next order by then
        chosen |= {max(n for n in ends if follow.events[n][:2] == ("end", 1))}
    for number in sorted(chosen):
        start = follow.saved[number]
        rest, resumed = train(data, options, together, start)
        place = follow.events[number]
        assert rest == seen[start[3] :], place
        assert resumed.events == follow.events[number + 1 :], place


def at(follow, event):
    """Return what was saved at an event."""
    return follow.saved[follow.events.index(event)]


@pytest.mark.failure(33)
@pytest.mark.parametrize("data", [shuffled, unknown])
def test_from_the_middle_of_a_validation_it_is_done_again(data):
    options = {"validation_data": (IDS[:8], TARGETS[:8]), "validation_batch_size": 2}
    seen, follow = train(lambda: (data(),), options)
    start = at(follow, ("test", 1, 2))
    assert start[0]["position"]["batch"] == 6
    rest, resumed = train(lambda: (data(),), options, start=start)
    assert rest == seen[12:]
    events = [event for event in resumed.events if event[0] != "begin"]
    assert events[:5] == [
        *[("test", 1, batch) for batch in range(4)],
        ("epoch", 1, ["loss", "val_loss"]),
    ]
    assert [event for event in events if event[:2] == ("test", 2)]


@pytest.mark.failure(41)
def test_more_epochs_and_fewer_than_before():
    seen, _ = train(lambda: (shuffled(),), epochs=5)
    _, follow = train(lambda: (shuffled(),))
    end = at(follow, ("epoch", 2, ["loss"]))
    more, _ = train(lambda: (shuffled(),), start=end, epochs=5)
    assert more == seen[18:]
    for epochs in (3, 2):
        assert train(lambda: (shuffled(),), start=end, epochs=epochs)[0] == []


@pytest.mark.failure(41)
def test_after_a_finished_fit_the_next_one_has_its_order():
    def twice(start):
        keras.utils.set_random_seed(3)
        data = shuffled()
        first, follow = train(lambda: (data,), start=start)
        return first, train(lambda: (data,))[0], follow

    _, second, follow = twice(None)
    end = at(follow, ("epoch", 2, ["loss"]))
    assert twice(end)[:2] == ([], second)
    assert train(lambda: (shuffled(),))[0] != second  # the order did go on


def test_arrays_without_a_seed_of_the_script():
    def orders(start=None):
        tf.random.set_seed(None)
        model = Seen()
        model.compile("sgd", "mse", run_eagerly=True)
        follow = Follow(start)
        model.fit(IDS, TARGETS, batch_size=4, epochs=2, verbose=0, callbacks=[follow])
        assert context.global_seed() is None
        return model.seen, follow

    seen, follow = orders()
    assert follow.course.findings == ()
    assert sorted(sum(seen[:6], [])) == list(range(EXAMPLES))
    assert orders(at(follow, ("end", 0, 1)))[0] == seen[2:]
    assert orders()[0] != seen


def test_arrays_keep_the_seed_that_they_had():
    seen, follow = train(*DATA["arrays"], 1)
    start = at(follow, ("end", 1, 2))
    assert train(*DATA["arrays"], 1, start, seed=4)[0] == seen[9:]
    assert train(*DATA["arrays"], 1, seed=4)[0][9:] != seen[9:]


def test_without_the_position_the_examples_are_others():
    seen, follow = train(lambda: (shuffled(),))
    start = at(follow, ("end", 1, 2))
    only_epoch, _ = train(lambda: (shuffled(),), {"initial_epoch": 1})
    assert only_epoch[3:] != seen[9:]
    start[0]["position"]["epoch"] = 0  # the passes of an epoch are not made up for
    assert train(lambda: (shuffled(),), start=start)[0][: len(seen[9:12])] != seen[9:12]


def test_other_data_is_refused_in_the_middle_of_an_epoch():
    _, follow = train(lambda: (shuffled(),))
    middle, end = at(follow, ("end", 1, 2)), at(follow, ("epoch", 0, ["loss"]))
    for data in [(shuffled(5),), (shuffled().repeat(2),), (IDS, TARGETS)]:
        with pytest.raises(ValueError, match="(?s)these are other batches.*HINT"):
            train(lambda data=data: data, start=middle)
    # At the start of an epoch, other batches still are each example once.
    assert len(train(lambda: (shuffled(5),), start=end, epochs=2)[0]) == 5


def test_in_the_middle_of_an_execution_is_no_position():
    _, follow = train(lambda: (shuffled(),))
    with pytest.raises(ValueError, match="(?s)middle of an execution.*a divisor of 3"):
        train(lambda: (shuffled(),), together=4, start=at(follow, ("end", 1, 2)))
    ended = at(follow, ("end", 1, 5))  # of the epoch, whatever an execution makes
    assert len(train(lambda: (shuffled(),), together=4, start=ended)[0]) == 6


def test_a_later_fit_of_the_model_begins_at_its_beginning():
    _, follow = train(lambda: (shuffled(),))
    _, resumed = train(lambda: (shuffled(),), start=at(follow, ("end", 1, 2)))
    model = resumed.model
    before = len(model.seen)
    model.fit(shuffled(), epochs=1, verbose=0, shuffle=False)
    assert len(model.seen) == before + 6


def test_outside_of_a_fit_there_is_no_course():
    with pytest.raises(TfdistError, match="(?s)in no fit.*HINT"):
        course_of(Seen())


@pytest.mark.parametrize("numbers", [(-1, 0, None), (0, 1.5, None), (0, 0, -1)])
def test_what_is_no_position(numbers):
    with pytest.raises(ValueError, match="no position"):
        Position.from_plain_data(
            dict(zip(["epoch", "batch", "length"], numbers, strict=True))
        )
