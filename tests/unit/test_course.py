"""A fit goes on with exactly the batches that the interrupted one had left."""

import math
import random
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdist.checkpoint import randomness
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
        self.note(("end", position.epoch, batch), position, logs)

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
    "shuffled and repeated": (lambda: (shuffled().repeat(2),), {}),
    "cached after the shuffle": (lambda: (shuffled().cache(),), {}),
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


def train(data, options, together, start=None, epochs=EPOCHS):
    keras.utils.set_random_seed(3)
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
            **options,
        )
    return model.seen, follow


@pytest.mark.failure(23)
@pytest.mark.parametrize("together", [1, 4])
@pytest.mark.parametrize("name", DATA)
def test_a_resumed_fit_sees_what_the_interrupted_one_had_left(name, together):
    data, options = DATA[name]
    seen, follow = train(data, options, together)
    ends = [number for number, saved in enumerate(follow.saved) if saved is not None]
    draw = random.Random(name)
    chosen = {ends[0], ends[-1], *draw.sample(ends, min(len(ends), 4))}
    chosen |= {n for n in ends if follow.events[n][:2] == ("epoch", 1)}
    chosen |= {n - 1 for n in chosen if follow.events[n][0] == "epoch"}  # all batches
    for number in sorted(chosen.intersection(ends)):
        start = follow.saved[number]
        rest, resumed = train(data, options, together, start)
        place = follow.events[number]
        assert rest == seen[start[3] :], place
        assert resumed.events == follow.events[number + 1 :], place
