"""The data of one `fit`: what is known of it, and how to begin in its middle."""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import context

from tfdist.checkpoint import randomness
from tfdist.checkpoint.position import Position
from tfdist.data import batches
from tfdist.errors import explain
from tfdist.strategies import fits, order, repeatable
from tfdist.strategies.arguments import global_batch_size
from tfdist.strategies.array_memory import runs_python
from tfdist.strategies.passes import Pass
from tfdist.strategies.repeatable import Outlasting, outlasting

# Keras's adapters, each for one kind of data -> how errors name it
_KINDS = {
    "ArrayDataAdapter": "arrays",
    "TFDatasetAdapter": "a dataset",
    "PyDatasetAdapter": "a PyDataset",
    "GeneratorDataAdapter": "a generator",
}


class FitData:
    """The training data of one `fit`, behind Keras's loop.

    Args:
        fit: The call of `fit`.
        loop: Keras's loop over the training data.
    """

    def __init__(self, fit: fits.Call, loop: Any) -> None:
        self._strategy = fit.model.distribute_strategy
        self._loop = loop
        adapter = loop.data_adapter
        self._kind = _KINDS.get(type(adapter).__name__, type(adapter).__name__)
        shuffled = bool(fit.arguments.get("shuffle", True))
        self._seed = context.global_seed()
        if self._kind == "arrays" and shuffled and self._seed is None:
            # Keras shuffles arrays from the global seed, which the script has not set.
            self._seed = random.SystemRandom().getrandbits(31)
            self._redistribute()
        given = fit.arguments.get("x")
        # With class weights, Keras takes the dataset for the input of another one.
        self._own = given if adapter.get_tf_dataset() is given else None
        self._dataset = self._global_batches()
        self._python = self._kind in ("a PyDataset", "a generator") or (
            self._dataset is not None and runs_python(self._dataset)
        )
        self.findings = tuple(self._find(fit.arguments))
        self.details = self._describe(fit.arguments)

    def refuse_other(self, saved: Mapping[str, Any], position: Position) -> None:
        """Raises ValueError if a position in other data is none in these.

        Args:
            saved: The `details` of the data in which the position is.
            position: The position; at the start of an epoch, any data will do.
        """
        differing = [
            f"{name}: {saved.get(name)} then, {now} now"
            for name, now in self.details.items()
            if name != "seed" and saved.get(name) != now
        ]
        if position.batch and differing:
            raise ValueError(
                explain(
                    f"The run was saved after {position.batch} batches of epoch "
                    f"{position.epoch}, and these are other batches",
                    received="; ".join(differing),
                    expected="the same data in the same order and batches",
                    hint="Pass the same data, batch size and seeds as before; read "
                    'files with shard="records" if the number of processes changes.',
                )
            )

    def restart(self, saved: Mapping[str, Any]) -> None:
        """Gives arrays the order in which they were shuffled before."""
        if self._kind == "arrays" and saved["seed"] != self._seed:
            self._seed = self.details["seed"] = saved["seed"]
            self._redistribute()
            self._dataset = self._global_batches()

    def iterator_from(self, batch: int) -> Any:
        """Begins a pass over the data after its first batches.

        Python code that makes the data has drawn its order when this returns.
        """
        distributed = self._loop._distributed_dataset
        if batch == 0:
            return iter(distributed)
        later = None if self._own is None else batches.advanced(self._own, batch)
        if later is None and self._dataset is not None and not self._python:
            later = self._dataset.skip(batch)
        if later is not None:
            return iter(self._distributed(later))
        iterator = iter(distributed)
        for _ in range(batch):
            next(iterator, None)
        return iterator

    def leave(self, gone: Pass) -> None:
        """Does to what outlasts a pass what this one did."""
        outlasts = self._what_outlasts_a_pass()
        if outlasts is Outlasting.ALL and gone.taken:
            iterator = self.iterator_from(gone.taken - 1)
            next(iterator, None)
            if gone.taken >= (self._loop.data_adapter.num_batches or math.inf):
                next(iterator, None)  # prefetching finds the end, too
        elif outlasts is not Outlasting.NOTHING:
            iter(self._loop._distributed_dataset)

    @contextlib.contextmanager
    def idle(self) -> Iterator[None]:
        """Keeps a PyDataset's workers from making batches for a while."""
        adapter = self._loop.data_adapter
        workers = getattr(adapter, "enqueuer", None)
        if workers is None:
            yield
            return
        adapter.enqueuer = None
        try:
            yield
        finally:
            adapter.enqueuer = workers

    def random_state(self) -> dict[str, Any] | None:
        """Returns the random states from which Python code may make the data."""
        return randomness.random_state() if self._python else None

    @contextlib.contextmanager
    def random(self, state: dict[str, Any] | None) -> Iterator[None]:
        """Sets these random states for a while; None leaves them."""
        if state is None:
            yield
            return
        own = randomness.random_state()
        randomness.set_random_state(state)
        try:
            yield
        finally:
            randomness.set_random_state(own)

    def _what_outlasts_a_pass(self) -> Outlasting:
        if self._kind in ("arrays", "a PyDataset"):
            return Outlasting.NOTHING
        if self._recipe() is not None:
            return Outlasting.NOTHING
        if self._kind == "a dataset" and self._dataset is not None:
            return outlasting(self._dataset)
        return Outlasting.ALL

    def _recipe(self) -> batches.Recipe | None:
        return None if self._own is None else batches.recipe_of(self._own)

    def _find(self, arguments: Mapping[str, Any]) -> list[str]:
        looked_into = self._dataset is not None or self._recipe() is None
        kind = self._kind if looked_into else "arrays"  # in an order as sure as theirs
        found = repeatable.findings(kind, self._dataset, arguments)
        endless = self._loop.steps_per_epoch and not self._loop.data_adapter.num_batches
        outlasts = self._what_outlasts_a_pass()
        if self._kind == "a dataset" and outlasts is Outlasting.ALL and not endless:
            found.append(repeatable.DRAWN_AHEAD)
        return found

    def _global_batches(self) -> tf.data.Dataset | None:
        """Returns a dataset of as many elements as there are steps, if there is one."""
        distributed = self._loop._distributed_dataset
        if isinstance(distributed, tf.data.Dataset):
            return distributed
        # Not a public name; without it, batches are skipped one by one.
        return getattr(distributed, "_original_dataset", None)

    def _redistribute(self) -> None:
        with order.seeded(self._seed):
            data = self._loop.data_adapter.get_tf_dataset()
        self._loop._distributed_dataset = self._distributed(data)

    def _distributed(self, data: Any) -> Any:
        if isinstance(data, tf.data.Dataset):
            return self._strategy.experimental_distribute_dataset(data)
        return data

    def _describe(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Returns what must be equal for a position to mean the same batches."""
        recipe = self._recipe()
        seeds = () if self._dataset is None else order.shuffle_seeds(self._dataset)
        return {
            "kind": self._kind,
            "batches": self._loop.data_adapter.num_batches,
            "steps per epoch": self._loop.steps_per_epoch,
            "batch size": global_batch_size(arguments),
            "seed": self._seed if self._kind == "arrays" else None,
            "shuffle seeds": [list(pair) for pair in seeds],
            "order": None if recipe is None else recipe.order,
        }
