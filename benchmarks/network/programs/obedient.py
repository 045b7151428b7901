"""A callback that lets `fit` train as many steps as are ordered."""

from __future__ import annotations

import time
from typing import Any

import keras

from benchmarks.network import formulas
from benchmarks.network.orders import Orders


class Obedient(keras.callbacks.Callback):
    """Times the steps of each order, and waits for the next one.

    Args:
        orders: Where the orders come from.
        facts: Part of every answer.
    """

    def __init__(self, orders: Orders, facts: dict[str, Any]) -> None:
        super().__init__()
        self._orders, self._facts = orders, facts
        self._left = 0
        self._means: list[float] = []  # of the loss since the beginning, by step
        self._seconds: list[float] = []
        self._began = 0.0

    def on_train_begin(self, logs: Any = None) -> None:
        """Waits for the first order."""
        self._obey()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Starts the clock."""
        self._began = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Stops the clock; answers when the order is carried out."""
        self._seconds.append(time.perf_counter() - self._began)
        self._means.append(float(logs["loss"]))
        self._left -= 1
        if self._left == 0:
            losses = formulas.batch_losses(self._means)[-len(self._seconds) :]
            self._orders.answer(seconds=self._seconds, losses=losses, **self._facts)
            self._obey()

    def _obey(self) -> None:
        order = self._orders.next()
        self._seconds = []
        if order is None:
            self.model.stop_training = True
        else:
            self._left = order["steps"]
