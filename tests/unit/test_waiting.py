"""The time in which a step waits, read inside a traced function."""

import sys
import threading

import pytest
import tensorflow as tf

from tfdist.gradients import lanes, waiting
from tfdist.gradients.waiting import MeasuredWaiting, Waiting

DELAY = 0.3  # seconds
WAITED = DELAY / 2


class Others:
    """Other ranks: their value arrives a while after the step has begun.

    A queue, since TensorFlow's threads wait for it as for a collective: not at all.
    """

    def __init__(self) -> None:
        self._queue = tf.queue.FIFOQueue(1, [tf.float32], [[]])
        self._timer = threading.Timer(DELAY, self._queue.enqueue, [1.0])

    def start(self) -> None:
        self._timer.start()

    def value(self) -> tf.Tensor:
        return self._queue.dequeue()


def measured(note) -> float:
    """Runs a traced function that notes something, and returns the seconds."""
    seconds = tf.Variable(0.0, dtype=tf.float64)
    others = Others()

    @tf.function
    def step(value: tf.Tensor) -> None:
        with waiting.entered(MeasuredWaiting(seconds)):
            note(waiting.current(), value, others.value)

    program = step.get_concrete_function(tf.constant(1.0))
    others.start()
    program(tf.constant(1.0))
    return float(seconds)


def test_only_the_time_between_counts():
    def late(watch, x, other):
        own = other()  # itself what takes long
        watch.between(own, own + x)

    assert measured(lambda watch, x, other: watch.between([x], [other()])) > WAITED
    assert measured(late) < WAITED
    assert measured(lambda watch, x, other: watch.between(other(), x)) < WAITED


def test_readings_do_not_wait_for_what_prints_or_for_one_another():
    def note(watch, x, other):
        arrived = waiting.time_when(other())
        tf.print("between", output_stream=sys.stderr)
        before = waiting.time_when(x)
        watch.computing(before - arrived)

    assert measured(note) > WAITED
    control = measured(lambda watch, x, other: watch.computing(read_in_order(other)))
    assert control < WAITED  # TensorFlow's own operation would wait


def read_in_order(other) -> tf.Tensor:
    with tf.control_dependencies([other()]):
        arrived = tf.timestamp()
    return tf.timestamp() - arrived


def test_inside_a_condition():
    def note(watch, x, other):
        tf.cond(x > 0, lambda: watch.between(x, other()), lambda: None)

    assert measured(note) > WAITED
    assert measured(lambda watch, x, other: note(watch, -x, other)) == 0.0


def test_computing_does_not_count():
    def note(watch, x, other):
        watch.between(x, other())
        watch.computing(tf.constant(1.0, tf.float64))

    assert WAITED - 1.0 < measured(note) < 0.0


def test_where_nothing_comes_from_others_nothing_is_waited_for():
    assert measured(lambda watch, x, _: watch.between(x, [1.0, None])) == 0.0


@pytest.mark.parametrize("lane", lanes.ALL)
def test_of_all_lanes_only_the_layers_is_noted_at_the_strategy(lane):
    def note(watch, x):
        with lanes.lane(lane):
            waiting.note_layers(x, x + 0.0)

    def operations(watch) -> int:
        program = tf.function(lambda x: note(watch, x))
        with waiting.entered(watch):
            return len(
                program.get_concrete_function(tf.constant(1.0)).graph.get_operations()
            )

    without = operations(Waiting())
    having = operations(MeasuredWaiting(tf.Variable(0.0, dtype=tf.float64)))
    assert (having > without) == (lane == lanes.VALUES)


def test_the_null_object_adds_no_operation():
    with tf.Graph().as_default() as graph:
        value = tf.constant(1.0)
        before = len(graph.get_operations())
        waiting.current().between(value, value)
        waiting.current().computing(value)
        assert len(graph.get_operations()) == before
    assert not waiting.current().measures


def test_measuring_ends_with_the_step():
    with pytest.raises(RuntimeError):
        with waiting.entered(MeasuredWaiting(None)):
            raise RuntimeError
    assert not waiting.current().measures
