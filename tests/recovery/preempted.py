"""A small training that stops after a signal, as one rank of a job.

Prints `RANK r: E` for what happens, and at the end where it stopped. Words: the
strategy's name, and at which event (`begin`, `trace`, `batch 2`, `test 1`, `epoch 0`,
`end`) which ranks send themselves which signal how often: `horovod "batch 2" 1 TERM 2`.
"""

import os
import signal
import sys
import time

import keras
import numpy as np
import tensorflow as tf

import tfdist
from tfdist import cluster
from tfdist.coordination.preemption import EXIT_CODE, Preemption
from tfdist.strategies.training import KerasTraining

NAME, EVENT, RANKS, SIGNAL, TIMES = sys.argv[1:6]


def say(event: str) -> None:
    os.write(1, f"RANK {cluster.rank()}: {event}\n".encode())


class Stop(keras.callbacks.Callback):
    """Stops all ranks at once, and says where."""

    def on_train_begin(self, logs=None):
        strategy = self.model.distribute_strategy
        ours = isinstance(strategy, KerasTraining)
        self.strategy = strategy if ours else None
        self.looks = 0
        self.preemption = Preemption(strategy.stops if ours else bool)
        self.preemption.install()
        self.happen("begin")

    def happen(self, event: str) -> None:
        if event == EVENT and str(cluster.rank()) in RANKS.split(","):
            say(f"sends itself SIG{SIGNAL}")
            for _ in range(int(TIMES)):
                os.kill(os.getpid(), getattr(signal, f"SIG{SIGNAL}"))

    def look(self) -> None:
        self.looks += 1
        if not self.preemption.due():
            return
        os.kill(os.getpid(), signal.SIGTERM)  # again, while it saves: no harm
        iterations = int(self.model.optimizer.iterations.numpy())
        if self.strategy is not None:
            self.strategy.agree("saved")  # nobody leaves before, or a launcher kills
        say(f"stops after look {self.looks}, step {iterations}")
        raise SystemExit(EXIT_CODE)

    def on_train_batch_begin(self, batch, logs=None):
        if cluster.rank() == 1:
            time.sleep(0.01)  # ranks at different places

    def on_train_batch_end(self, batch, logs=None):
        self.happen(f"batch {batch}")
        self.look()

    def on_test_batch_end(self, batch, logs=None):
        self.happen(f"test {batch}")
        self.look()

    def on_epoch_end(self, epoch, logs=None):
        self.happen(f"epoch {epoch}")
        self.look()

    def on_train_end(self, logs=None):
        self.happen("end")
        self.preemption.remove()


class Traced(keras.layers.Layer):
    """Lets something happen while the first step is traced."""

    def call(self, inputs):
        if stop.model is not None and not keras.backend.is_keras_tensor(inputs):
            stop.happen("trace")
        return inputs


stop = Stop()
tfdist.set_seed(1)
if NAME == "mirrored":
    (device,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(
        device, [tf.config.LogicalDeviceConfiguration()] * 2
    )
    strategy = tfdist.strategy(NAME, devices=["CPU:0", "CPU:1"])
else:
    strategy = tfdist.strategy(NAME)
with strategy.scope():
    model = keras.Sequential([keras.Input((4,)), Traced(), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
data = np.ones((24, 4), "float32"), np.ones((24, 1), "float32")
say("starts")
model.fit(
    *data,
    batch_size=4,
    epochs=3,
    verbose=0,
    validation_data=data,
    validation_batch_size=4,
    callbacks=[stop],
)
say(f"ends after look {stop.looks}")
