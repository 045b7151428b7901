"""What training draws at random that a resumed run cannot draw again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from tfdist.strategies import draws, fits

_BATCHES = 2  # that are watched; the draws of the first may fall among the callbacks'


class Draws:
    """Sees what is drawn while the first batches of a `fit` are made.

    What a step draws is known from its graph. What a `PyDataset` draws in another
    thread is seen by NumPy's global state, which changes while no callback has its
    turn. Keras itself shuffles with Python's.

    Args:
        call: The call of `fit`.
    """

    def __init__(self, call: fits.Call) -> None:
        self._model = call.model
        is_watched = isinstance(call.arguments.get("x"), keras.utils.PyDataset)
        self._left = _BATCHES if is_watched else 0
        self._before: Any = None
        self._by_data = False
        self._told = False

    def watch(self) -> None:
        """Callbacks are done: from now on nobody draws but data and step."""
        if self._left:
            self._before = _numpy_state()

    def look(self) -> None:
        """Callbacks begin."""
        if self._left:
            self._by_data |= _numpy_state() != self._before

    def findings(self) -> list[str]:
        """Returns what is known after a batch, once, in sentences with a hint."""
        if self._told:
            return []
        self._left = max(self._left - 1, 0)
        self._told = self._left == 0 or self._by_data
        return list(self._sentences()) if self._told else []

    def _sentences(self) -> Iterator[str]:
        drawn = draws.drawn_by(self._model)
        if drawn:
            yield (
                f"The training step draws random numbers ({', '.join(drawn)}) whose "
                "state cannot be saved. HINT: Use keras.random with seed="
                "keras.random.SeedGenerator(1), kept as an attribute of the layer."
            )
        if self._by_data:
            yield (
                "The PyDataset draws from NumPy's global generator while batches are "
                "made ahead. HINT: Draw in __getitem__ from a generator of its own, "
                "np.random.default_rng([epoch, index])."
            )


def _numpy_state() -> tuple[bytes, int]:
    _, key, position, *_ = np.random.get_state()
    return np.asarray(key).tobytes(), int(position)
