"""What every program has in common: who it is, one core, and the loop over orders."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.network import models
from benchmarks.network.orders import Orders


class Rank(NamedTuple):
    """One process of a job, as its command line and environment describe it."""

    rank: int
    ranks: int
    model: str
    options: dict[str, Any]  # the method's own
    orders: Orders

    def batches(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns this rank's inputs and labels, a row for each batch."""
        inputs, labels = models.examples(self.model, self.ranks)
        return (
            models.own_part(inputs, self.rank, self.ranks),
            models.own_part(labels, self.rank, self.ranks),
        )


def start() -> Rank:
    """Reads who this process is.

    A process that trains for itself stays on one core. The others have one thread to
    compute with, too, but may communicate on any core: some peers do it at the same
    time, and would be slowed down more than on hosts of their own.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("model")
    parser.add_argument("options", type=json.loads)
    given = parser.parse_args()
    rank = _number("RANK", 0)
    if given.options.get("one_core"):
        # Before a framework is imported: its threads inherit the core.
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[rank % len(cores)]})
    orders = Orders(given.folder, rank)
    return Rank(rank, _number("SIZE", 1), given.model, given.options, orders)


def serve(orders: Orders, step: Callable[[int], float], **facts: Any) -> None:
    """Trains as many steps as ordered, until there are no more orders.

    Args:
        orders: Where the orders come from.
        step: Trains one step, given the number of the batch, and returns its loss.
        facts: Part of every answer.
    """
    number = 0
    for order in orders:
        seconds, losses = [], []
        for _ in range(order["steps"]):
            began = time.perf_counter()
            losses.append(step(number % models.BATCHES))
            seconds.append(time.perf_counter() - began)
            number += 1
        orders.answer(seconds=seconds, losses=losses, **facts)


def _number(name: str, default: int) -> int:
    """Returns what horovodrun has set, or else this benchmark."""
    for variable in (f"HOROVOD_{name}", f"BENCHMARK_{name}"):
        if variable in os.environ:
            return int(os.environ[variable])
    return default
