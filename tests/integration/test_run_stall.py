"""Ranks that stand still: needs real training on real processes that are stopped."""

import os
import signal
import time

import pytest

TRAINING = """
import os, sys, time
import keras, numpy as np, tensorflow as tf
import tfdist
from tfdist import cluster

tfdist.set_seed(1)
strategy = tfdist.strategy("auto")
with strategy.scope():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")

class Pace(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        time.sleep(0.1)
        if batch == 5:
            print("training", os.getpid(), flush=True)
        if batch == 8 and "asleep" in sys.argv and cluster.rank() == 1:
            fall_asleep()

def fall_asleep():
    time.sleep(300)

x = np.zeros((800, 4), "float32")
model.fit(x, x[:, :2], batch_size=4, epochs=5, verbose=0, callbacks=[Pace()])
"""

# After training, a script may take its time.
IDLING = (
    TRAINING.replace("epochs=5", "epochs=1, steps_per_epoch=8")
    + """
time.sleep(6)
print("done")
"""
)

# The same, in a loop of one's own, which only the watchdog's samples show.
LOOP = (
    TRAINING.partition("class Pace")[0]
    + """
optimizer = tfdist.gradients.attach(model.optimizer, model)
optimizer.build(model.trainable_variables)

@tf.function
def train_step(x):
    def step(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(model(x) ** 2)
        weights = model.trainable_variables
        optimizer.apply(tape.gradient(loss, weights), weights)
    strategy.run(step, args=(x,))

for number in range(100000):
    train_step(tf.zeros((4, 4)))
    if number == 5:
        print("training", os.getpid(), flush=True)
"""
)

HORO = ("-np", "2", "--strategy", "horovod")
MULTI = ("-np", "2", "--strategy", "multiworker")


def check(one, code: int, err: str, reason: str) -> None:
    assert code == 75
    host = os.uname().nodename
    assert f"tfdist: rank 1 of 2 on {host} makes no step since" in err
    assert reason in err
    assert "rank 0" not in err  # the one that waits is not named
    assert "(most recent call first):" in one.log(1)
    assert "script.py" in one.log(1)
    assert not one.survivors()


@pytest.mark.parametrize(
    "launch", [pytest.param(HORO, marks=pytest.mark.full), MULTI], ids=["gloo", "multi"]
)
def test_a_stopped_rank_is_named(run, launch):
    if launch == HORO:
        pytest.importorskip("horovod", reason="Horovod is not built")
    one = run(TRAINING, *launch, "--stall-timeout", "4", "--grace", "2")
    one.wait_for("training", 1)
    pid = int(one.log(1).partition("training ")[2].split()[0])
    os.kill(pid, signal.SIGSTOP)
    code, _, err = one.finish()
    check(one, code, err, "its process is stopped (SIGSTOP)")


@pytest.mark.full
def test_a_stopped_rank_is_named_in_a_loop_of_ones_own(run):
    one = run(LOOP, *MULTI, "--stall-timeout", "4", "--grace", "2")
    one.wait_for("training", 1)
    time.sleep(2)  # some samples
    os.kill(int(one.log(1).partition("training ")[2].split()[0]), signal.SIGSTOP)
    code, _, err = one.finish()
    check(one, code, err, "its process is stopped (SIGSTOP)")


@pytest.mark.full
def test_a_rank_that_is_elsewhere_is_named(run):
    one = run(
        TRAINING, *MULTI, "--stall-timeout", "4", "--grace", "2", words=("asleep",)
    )
    code, _, err = one.finish()
    check(one, code, err, "the other ranks wait for it")
    assert "in fall_asleep" in one.log(1)
    assert "in fall_asleep" in err


@pytest.mark.full
def test_no_step_is_expected_after_training(run):
    one = run(IDLING, *MULTI, "--stall-timeout", "2")
    started = time.monotonic()
    code, out, err = one.finish()
    assert (code, out.endswith("done\n")) == (0, True), err
    assert time.monotonic() - started > 6
