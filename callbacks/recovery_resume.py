"""A checkpoint that a `fit` goes on from: checked, and put back where it belongs."""

from __future__ import annotations

import platform
from collections.abc import Collection, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist import __version__, cluster
from tfdist.checkpoint.manifest import Manifest
from tfdist.checkpoint.randomness import random_state, set_random_state
from tfdist.checkpoint.snapshot import Arrays, Snapshot
from tfdist.checkpoint.states import join, split
from tfdist.checkpoint.store import Checkpoint, Part
from tfdist.errors import explain
from tfdist.strategies.course import Course

from .recovery_place import Place
from .recovery_states import (
    SavedStates,
    common_states,
    is_of_callback,
    own_states,
)

_MOST = 5  # differences that an error lists


def part_of(
    model: keras.Model,
    snapshot: Snapshot,
    callbacks: Sequence[Any],
    place: Place,
    *,
    data: Any,
    logs: Any,
    metrics: Arrays,
    earlier: Sequence[Any],
) -> Part:
    """Returns what this process saves; arrays may share memory with variables.

    Args:
        model: The model that is trained.
        snapshot: Its variables and its optimizer's.
        callbacks: All callbacks of the `fit`.
        place: Where the training is.
        data: Where it is in its data, as the course tells.
        logs: Those of the last batch, or of the epoch at its end.
        metrics: The epoch's metrics, where validation has begun with new ones.
        earlier: The histories of the fits before this one.
    """
    chief = cluster.is_chief()
    common, own = snapshot.capture(metrics=place.batch > 0, common=chief)
    own |= metrics
    own_details = {
        "callbacks": own_states(callbacks, own),
        "random": split(random_state(), "random", own),
    }
    at_end = place.batch == 0  # of an epoch, whose last step may be saved already
    if not chief:
        return Part(own=own, own_details=own_details, replaces=at_end)
    strategy = model.distribute_strategy
    details = {
        "place": place.as_plain_data(),
        "epoch": place.epoch,  # for people
        "batch": place.batch,
        "strategy": type(strategy).__name__,
        "replicas": strategy.num_replicas_in_sync,
        "versions": versions(),
        "layers": snapshot.layers,
        "optimizers": snapshot.optimizers,
        "callbacks": common_states(callbacks, common),
        "data": split(data, "data", common),
        "logs": split(None if at_end else logs, "logs", common),
        "earlier": split(list(earlier), "earlier", common),
        "metrics": _numbers(logs) if at_end else {},  # of these weights
    }
    return Part(own, common, details, own_details, replaces=at_end)


def versions() -> dict[str, str]:
    """Returns the versions on which numbers may depend."""
    return {
        "tfdist": __version__,
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
        "python": platform.python_version(),
    }


def _numbers(logs: Any) -> dict[str, float]:
    """Returns those of an epoch's logs that are numbers."""
    return {
        name: float(value)
        for name, value in dict(logs or {}).items()
        if np.ndim(value) == 0 and np.issubdtype(np.asarray(value).dtype, np.number)
    }


def ranks_needed(model: keras.Model, manifest: Manifest) -> list[int] | None:
    """Returns of which ranks this process needs the own files; None: of all.

    A job of the same shape gives each process back what it had. What another one has to
    share out anew, and arrays that callbacks remember, are read by all.
    """
    own = manifest.files[manifest.ranks[0]].tensors
    if _is_alike(model, manifest) and not any(map(is_of_callback, own)):
        return [cluster.rank()]
    return None


def _is_alike(model: keras.Model, manifest: Manifest) -> bool:
    """Returns whether this job has the processes and replicas of the one that saved."""
    replicas = model.distribute_strategy.num_replicas_in_sync
    saved = (manifest.world_size, manifest.details.get("replicas"))
    return saved == (cluster.size(), replicas)


class Resumption:
    """Goes on from a checkpoint.

    Everything is checked before anything is changed. What callbacks need in their
    `on_train_begin` is given back before it; variables, and what callbacks have reset,
    after it. In the middle of an epoch they are given back once more when the epoch
    has begun: what callbacks do at its beginning was done before the checkpoint.

    Args:
        model: The model of the `fit`.
        callbacks: All its callbacks.
        checkpoint: What was loaded.
    """

    def __init__(
        self, model: keras.Model, callbacks: Sequence[Any], checkpoint: Checkpoint
    ) -> None:
        self._model = model
        self._checkpoint = checkpoint
        self._details = checkpoint.manifest.details
        self.place = Place.from_plain_data(self._details.get("place"))
        own_details = checkpoint.manifest.own_details
        self._states = SavedStates(
            callbacks,
            self._details["callbacks"],
            checkpoint.common,
            [each["callbacks"] for each in own_details],
            checkpoint.ranks,
        )
        rank = cluster.rank() % len(own_details)
        self._own = checkpoint.ranks[rank]
        self._random = join(own_details[rank]["random"], self._own)
        self.earlier = join(self._details["earlier"], checkpoint.common)

    @property
    def changes(self) -> list[str]:
        """What is not as it was when the checkpoint was saved, in words."""
        strategy = self._model.distribute_strategy
        pairs = [
            ("strategy", self._details["strategy"], type(strategy).__name__),
            ("processes", self._checkpoint.manifest.world_size, cluster.size()),
            ("replicas", self._details["replicas"], strategy.num_replicas_in_sync),
        ]
        own = versions()
        pairs += [
            (name, self._details["versions"].get(name), own[name]) for name in own
        ]
        return [
            f"{name}: {then} before, {now} now"
            for name, then, now in pairs
            if then != now
        ] + self._states.changes

    def before_train_begin(self, *, skipped: bool) -> None:
        """Gives callbacks back what they need in `on_train_begin`.

        Args:
            skipped: Whether the checkpoint is of a later `fit`, and its callbacks.
        """
        if skipped:
            self._states.keep_files()
        else:
            self._states.give_before(cluster.is_chief())

    def check(self, snapshot: Snapshot) -> None:
        """Makes sure that the checkpoint fits.

        Raises:
            ValueError: It is of another model or optimizer.
        """
        lines = [
            f"{what}: {before} in the checkpoint, {now} in the model"
            for what, before, now in (
                *_different_layers(self._details["layers"], snapshot.layers),
                ("optimizer", self._details["optimizers"], snapshot.optimizers),
            )
            if before != now
        ]
        lines += snapshot.differences(
            _variables_in(self._checkpoint.common),
            _variables_in(self._own),
            metrics=self.place.batch > 0,
        )
        if lines:
            more = f", and {len(lines) - _MOST} more" if len(lines) > _MOST else ""
            raise ValueError(
                explain(
                    "The checkpoint is of another model or optimizer; nothing was "
                    "changed",
                    received=f"{'; '.join(lines[:_MOST])}{more}",
                    expected="the model and the optimizer that were saved",
                    hint="Build them as they were, or give this training a directory "
                    "of its own.",
                )
            )

    def resume_data(self, course: Course) -> None:
        """Lets the data go on where it was.

        Raises:
            ValueError: It is other data.
        """
        common = self._checkpoint.common
        logs = join(self._details["logs"], common)
        course.resume(join(self._details["data"], common), logs)

    def after_train_begin(self, snapshot: Snapshot) -> None:
        """Puts the variables back, and what callbacks have reset."""
        self._assign(snapshot)
        self._states.give_after()
        set_random_state(self._random)

    def after_epoch_begin(self, snapshot: Snapshot) -> None:
        """Undoes what callbacks have done at the beginning of a resumed epoch."""
        self._assign(snapshot)
        self._states.give_after()
        set_random_state(self._random)

    def before_first_batch(self, snapshot: Snapshot) -> None:
        """Undoes what making the data's iterator has drawn, too."""
        self.after_epoch_begin(snapshot)

    def give_weights(self, snapshot: Snapshot) -> None:
        """Puts back those variables of the model that fit, and nothing else."""
        fitting = (
            {
                name
                for name, array in self._checkpoint.common.items()
                if snapshot.fits(name, array.shape, array.dtype)
            }
            | {
                name
                for name, array in self._own.items()  # one dimension more: replicas
                if snapshot.fits(name, array.shape[1:], array.dtype)
            }
        )
        self._assign(snapshot, {name for name in fitting if name.startswith("model/")})

    def _assign(self, snapshot: Snapshot, only: Collection[str] | None = None) -> None:
        replicas = self._model.distribute_strategy.num_replicas_in_sync
        per_process = replicas // cluster.size()
        common = _variables_in(self._checkpoint.common)
        alike = _is_alike(self._model, self._checkpoint.manifest)
        saved = [self._own] if alike else self._checkpoint.ranks
        ranks = [_variables_in(arrays) for arrays in saved]
        own = {place: [arrays[place] for arrays in ranks] for place in ranks[0]}
        if only is not None:
            common = {place: common[place] for place in common if place in only}
            own = {place: own[place] for place in own if place in only}
        snapshot.assign(
            common,
            own,
            first=0 if alike else cluster.rank() * per_process,
            replicas_in_sync=per_process if alike else replicas,
            metrics=self.place.batch > 0 and only is None,
        )


def _variables_in(arrays: dict[str, Any]) -> dict[str, Any]:
    """Returns what of a file's arrays are values of variables."""
    owners = ("model/", "optimizer/", "metrics/")
    return {name: arrays[name] for name in arrays if name.startswith(owners)}


def _different_layers(
    saved: Sequence[str], present: Sequence[str]
) -> list[tuple[str, str, str]]:
    """Returns (what, in the checkpoint, in the model), without variables too."""
    missing = [place for place in saved if place not in present]
    extra = [place for place in present if place not in saved]
    return [(place, "a layer", "none") for place in missing] + [
        (place, "none", "a layer") for place in extra
    ]
