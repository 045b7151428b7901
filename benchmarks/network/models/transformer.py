"""A small Transformer encoder: 3.4 million parameters, a third in the embedding.

Without positions: the task needs none. The embedding's gradient is sparse, and travels
as the rows that a batch uses.

Source: Vaswani et al., Attention is all you need, NeurIPS 2017 (normalisation first).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.network.models import Task

WORDS, LENGTH, WIDTH, HEADS, HIDDEN, LAYERS = 4096, 64, 256, 4, 1024, 3
TASK = Task(batch=8, learning_rate=0.01, loss=0.5, steps=60, classes=10, words=LENGTH)
OWN_WORDS = 40  # a class writes its texts with these


def build() -> Any:
    """Returns the model."""
    import keras
    from keras import layers

    words = keras.Input([LENGTH], dtype="int32")
    x = layers.Embedding(WORDS, WIDTH)(words)
    for _ in range(LAYERS):
        y = layers.LayerNormalization()(x)
        y = layers.MultiHeadAttention(HEADS, WIDTH // HEADS)(y, y)
        x = layers.add([x, y])
        y = layers.LayerNormalization()(x)
        y = layers.Dense(HIDDEN, "gelu")(y)
        x = layers.add([x, layers.Dense(WIDTH)(y)])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(words, layers.Dense(TASK.classes)(x), name="transformer")


def inputs(labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Returns texts, half of whose words are their class's own."""
    own = random.integers(0, WORDS, (TASK.classes, OWN_WORDS))
    picks = random.integers(0, OWN_WORDS, (len(labels), LENGTH))
    typical = own[labels[:, None], picks]
    any_word = random.integers(0, WORDS, (len(labels), LENGTH))
    mixed = np.where(random.random((len(labels), LENGTH)) < 0.5, typical, any_word)
    return mixed.astype("int32")
