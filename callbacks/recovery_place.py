"""Where a run stands: what a manifest tells of it beside the variables."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tfdist.checkpoint.errors import CheckpointError
from tfdist.errors import explain


@dataclasses.dataclass(frozen=True)
class Place:
    """How far the training of a directory is.

    Attributes:
        step: Batches of all epochs and fits so far: the checkpoint's number.
        fit: Calls of `fit` that had returned before this one.
        epoch: The epoch of the next batch, from 0.
        batch: Batches of that epoch that are done.
        epochs: The `epochs` that `fit` was given.
        stopped: Whether EarlyStopping has ended this `fit` before its last epoch.
    """

    step: int = 0
    fit: int = 0
    epoch: int = 0
    batch: int = 0
    epochs: int = 0
    stopped: bool = False

    def is_complete(self, epochs: int) -> bool:
        """Returns whether nothing is left of a `fit` with this many epochs.

        One that was stopped early goes on if it is given more epochs than it had.
        """
        return self.epoch >= epochs or (self.stopped and epochs <= self.epochs)

    def as_plain_data(self) -> dict[str, Any]:
        """Returns the attributes by name."""
        return dataclasses.asdict(self)

    @classmethod
    def from_plain_data(cls, data: Any) -> Place:
        """Undoes `as_plain_data`.

        Raises:
            CheckpointError: It is something else.
        """
        fields = {field.name: field.type for field in dataclasses.fields(cls)}
        if isinstance(data, Mapping) and set(data) == set(fields):
            kinds = {"int": int, "bool": bool}
            if all(type(data[name]) is kinds[str(fields[name])] for name in fields):
                return cls(**data)
        raise CheckpointError(
            explain(
                "A checkpoint does not say where it was in the training",
                received=repr(data)[:80],
                expected=", ".join(fields),
                hint="CheckpointRecovery did not write it; use another directory.",
            )
        )

    def __str__(self) -> str:
        if self.batch:
            return f"step {self.step} (batch {self.batch} of epoch {self.epoch + 1})"
        return f"step {self.step} (end of epoch {self.epoch})"
