"""Which steps stay: none is deleted before a newer one has been read back."""

from __future__ import annotations

from dataclasses import dataclass, field

from tfdist.checkpoint.directory import Directory
from tfdist.checkpoint.errors import CheckpointError
from tfdist.checkpoint.manifest import Manifest
from tfdist.checkpoint.retention import Kept, Retention, choose_kept
from tfdist.checkpoint.sweep import delete_step, sweep
from tfdist.errors import explain


@dataclass
class Keeper:
    """What the chief knows of the steps that are there.

    A step that this process finds damaged is not known any more: it does not count as
    one to be kept, and it is not deleted, since reading may have failed for a while.

    Attributes:
        directory: Where they are.
        retention: Which of them to keep.
        known: Steps with a whole manifest of this run.
        verified: Steps of which this process, or all ranks together, have read every
            byte.
    """

    directory: Directory
    retention: Retention
    known: dict[int, Kept] = field(default_factory=dict)
    verified: set[int] = field(default_factory=set)

    def add(self, manifest: Manifest) -> None:
        """Notes a step that is there."""
        self.known[manifest.step] = Kept(manifest.finite, manifest.metrics)
        self.verified.discard(manifest.step)

    def judge(self, step: int, reason: str | None) -> None:
        """Notes what the reading of a step has shown."""
        if reason is None:
            self.verified.add(step)
        else:
            self.known.pop(step, None)

    def retain(self, newest: int) -> None:
        """Deletes what need not be kept, after a step was committed.

        Raises:
            CheckpointError: The new step reads back damaged, and was deleted instead.
            OSError: Something could not be deleted.
        """
        kept = choose_kept(self.known, self.retention) | {newest}
        doomed = sorted(set(self.known) - kept)
        if doomed and not any(step > doomed[-1] for step in kept & self.verified):
            self._read_back(newest)
        for step in doomed:
            delete_step(self.directory, step)
            del self.known[step]
        sweep(self.directory, before=newest)

    def _read_back(self, step: int) -> None:
        reason = self.directory.verify(step)
        self.judge(step, reason)
        if reason is not None:
            delete_step(self.directory, step)
            raise CheckpointError(
                explain(
                    f"Step {step} reads back damaged just after it was saved",
                    received=reason,
                    expected="the bytes that were written",
                    hint="Check the disk. Older steps have been kept.",
                )
            )
