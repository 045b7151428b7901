"""A model that every rank trains for a few seconds; prints rank and weights' digest.

python train_small.py [STEPS] [STRATEGY]
"""

import hashlib
import sys

import keras
import numpy as np

import tfdist

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 40
tfdist.set_seed(1)
strategy = tfdist.strategy(sys.argv[2] if len(sys.argv) > 2 else "auto")
with strategy.scope():
    model = keras.Sequential([keras.layers.Dense(64, "relu"), keras.layers.Dense(4)])
    model.compile("sgd", "mse")


class Steps(keras.callbacks.Callback):
    """Tells the tests how far training is."""

    def on_train_batch_end(self, batch, logs=None):
        if tfdist.cluster.is_chief() and batch % 20 == 0:
            print(f"step {batch}", flush=True)


random = np.random.default_rng(0)
inputs = random.normal(size=(8 * steps, 16)).astype("float32")
targets = random.normal(size=(8 * steps, 4)).astype("float32")
model.fit(inputs, targets, batch_size=8, verbose=0, shuffle=False, callbacks=[Steps()])
digest = hashlib.sha256(b"".join(w.tobytes() for w in model.get_weights())).hexdigest()
print(f"rank {tfdist.cluster.rank()} of {tfdist.cluster.size()}: {digest[:16]}")
