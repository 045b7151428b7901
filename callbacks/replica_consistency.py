"""An alarm when replicas are no longer the same."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from tfdist import cluster
from tfdist.errors import RankMismatchError, explain
from tfdist.strategies import comparison, fits
from tfdist.strategies.group import Group, group_of
from tfdist.strategies.training import KerasTraining

from .arguments import checked_integer
from .batches_made import batches_made
from .place import Placed
from .replica_report import Report
from .replica_state import common_variables

_logger = logging.getLogger("tfdist")
_ACTIONS = ("raise", "repair", "warn")
_SAVES = "What is saved has to be compared before"


class ReplicaConsistency(Placed):
    """Compares all replicas' state now and then, bit for bit.

    Data parallel training rests on replicas that hold the same weights. If they do not
    (a rank has loaded other weights, has missed an update, or its memory has failed;
    an optimizer does not sum the gradients), each trains a model of its own, and only
    the first one's is saved; nothing else shows it. So, after the first step, every
    `every` steps, at the end of epochs and of the training, a 64-bit hash of weights,
    optimizer slots, loss scale, random states and the moving statistics of
    BatchNormalization is compared among all replicas, those inside one process too.

    What differs by design is left out: gradients that are accumulated for a later
    update, residuals of compressed gradients, metrics; moving statistics of plain
    BatchNormalization and of layers of one's own, until they are averaged at an epoch's
    end; with LocalSGD, what replicas learn on their own until they exchange it, and the
    slots of their optimizers.

    It also works for a plain Keras model in a script that uses Horovod itself: there,
    weights and optimizer slots are compared. With one replica it does nothing.

    Args:
        every: Steps between two comparisons. An epoch's end is looked at if as many
            have passed since the last one that was, and the end of training always.
            In epochs that have no more steps, replicas are compared at their ends only.
        action: "raise" stops all ranks. "repair" sends the values of the first
            replica to all others and says so. "warn" says so, once for the same
            variables.
        ignore: Patterns of the paths of variables that are meant to differ, such as
            "*/my_counter".

    Raises:
        ValueError: A wrong argument, or processes that nothing connects.
        RankMismatchError: The replicas differ, on all ranks; with "repair" and "warn"
            only if they have different models.
        TfdistError: The ranks were given different arguments.

    Example:
        >>> model.fit(dataset, callbacks=[tfdist.callbacks.ReplicaConsistency()])
    """

    precedes: ClassVar = {
        "ModelCheckpoint": _SAVES,
        "BackupAndRestore": _SAVES,
    }

    def __init__(
        self, every: int = 100, action: str = "raise", *, ignore: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.every = checked_integer("every", every, least=1)
        self.action = _checked_action(action)
        self.ignore = _checked_patterns(ignore)
        self._group: Group | None = None
        self._epoch = 0
        self._before = 0  # steps of all epochs before this one
        self._steps = 0  # and those of this one
        self._compared = 0  # the step after which replicas were last compared
        self._ended = 0  # the same, at an epoch's end
        self._is_new = True  # no step was compared in this fit
        self._repairs = 0
        self._told: set[str] = set()
        fits.install()

    def on_train_begin(self, logs: Any = None) -> None:
        """Finds the other replicas."""
        self._is_new = True
        # The steps of an epoch that was broken off are made again.
        self._compared = min(self._compared, self._before)
        self._group = group_of(self.model)
        strategy = self.model.distribute_strategy
        if self._group is not None and isinstance(strategy, KerasTraining):
            config = {name: str(value) for name, value in self.get_config().items()}
            strategy.agree("replica consistency", config)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Notes the epoch."""
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Compares after the first step, and when it is time."""
        made = batches_made(self, batch)
        self._steps = self._before + made
        is_due = self._steps - self._compared >= self.every
        is_short = (self.params.get("steps") or self.every + 1) <= self.every
        if self._is_new or (is_due and not is_short):
            self._compare(f"after step {made} of epoch {self._epoch + 1}")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Compares what is averaged at the end of epochs too."""
        self._before = self._steps
        if self._steps - self._ended >= self.every:
            self._ended = self._steps
            self._compare(f"at the end of epoch {epoch + 1}", settled=True)

    def on_train_end(self, logs: Any = None) -> None:
        """Compares what is left to the user."""
        if not self._is_new:  # before the first step, ranks may hold what they like
            self._compare("at the end of training", settled=True)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments as plain data."""
        return {"every": self.every, "action": self.action, "ignore": self.ignore}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ReplicaConsistency:
        """Undoes `get_config`."""
        return cls(**config)

    def get_state(self) -> dict[str, Any]:
        """Returns what has to be remembered; equal on all processes.

        Returns:
            "steps" of complete epochs; the step last "compared", and that of the last
            epoch's end that was; the number of "repairs".
        """
        return {
            "steps": self._before,
            "compared": self._compared,
            "ended": self._ended,
            "repairs": self._repairs,
        }

    def set_state(self, states: Sequence[dict[str, Any]]) -> None:
        """Goes on from the states of all processes; call it before `fit`.

        Args:
            states: What `get_state` returned on all processes, in order of rank; the
                same list on every process.
        """
        state = states[0]
        self._steps = self._before = state["steps"]
        self._compared, self._ended = state["compared"], state["ended"]
        self._repairs = state["repairs"]

    def _compare(self, when: str, settled: bool = False) -> None:
        self._compared, self._is_new = self._steps, False
        if self._group is None:
            return
        settled = settled and fits.running(self.model) is not None
        variables = common_variables(self.model, settled=settled, ignore=self.ignore)
        found = comparison.summarize(self._group, variables, self._steps)
        if not (np.stack(found) != np.stack(found)[:, :1]).any():
            return
        report = Report(self._group, when)
        if (found.layouts != found.layouts[0]).any():
            raise RankMismatchError(report.of_layouts(found.layouts))
        different = comparison.find(self._group, variables)
        self._act(report.of_values(found, different), different)

    def _act(self, text: str, different: Sequence[Any]) -> None:
        """Does with a difference, which all processes see alike, what is asked for."""
        if self.action == "raise":
            raise RankMismatchError(text)
        paths = {variable.path for variable in different}
        if self.action == "repair" and self._group is not None:
            self._group.send_from_first(different)
            self._repairs += 1
            text += f"\nAll replicas go on with its values (repair {self._repairs})."
        is_told = self.action == "warn" and paths <= self._told
        self._told |= paths
        if cluster.is_chief() and not is_told:
            _logger.warning(text)


def _checked_action(action: str) -> str:
    if action in _ACTIONS:
        return action
    raise ValueError(
        explain(
            "Wrong action",
            received=repr(action),
            expected=", ".join(map(repr, _ACTIONS)),
            hint="Leave action='raise'.",
        )
    )


def _checked_patterns(ignore: Any) -> list[str]:
    listed = isinstance(ignore, list | tuple)
    if listed and all(isinstance(pattern, str) for pattern in ignore):
        return list(ignore)
    raise ValueError(
        explain(
            "Wrong ignore",
            received=repr(ignore),
            expected="a list of patterns of variables' paths",
            hint='ignore=["*/my_counter"]',
        )
    )
