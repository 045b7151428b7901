"""Where in its data a run is, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tfdist.errors import explain


@dataclass(frozen=True)
class Position:
    """The next step that a run has to make.

    The unit is the global batch, so that it means the same for any number of ranks.
    """

    epoch: int  # from 0
    batch: int  # batches of the epoch that are done
    length: int | None = None  # of an epoch, where only Keras's first one told it

    def __post_init__(self) -> None:
        counts = (self.epoch, self.batch, 0 if self.length is None else self.length)
        if not all(type(count) is int and count >= 0 for count in counts):
            raise ValueError(
                explain(
                    "This is no position in the data",
                    received=self,
                    expected="integers from 0 on",
                    hint="Start again from an older checkpoint.",
                )
            )

    def as_plain_data(self) -> dict[str, Any]:
        """Returns it as JSON holds it."""
        return asdict(self)

    @classmethod
    def from_plain_data(cls, data: Mapping[str, Any]) -> Position:
        """Undoes `as_plain_data`.

        Raises:
            ValueError: A number is negative or none.
        """
        return cls(data["epoch"], data["batch"], data["length"])
