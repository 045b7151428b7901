"""Reads a directory of checkpoints, and trusts none of it.

A folder `step-00000123/` is a checkpoint if it has a manifest that is whole, and every
file that this names has the size, the hash and the tensors that it says.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from tfdist.checkpoint import manifest as manifests
from tfdist.checkpoint.errors import CheckpointError, DamagedError
from tfdist.checkpoint.files import read_file
from tfdist.checkpoint.filesystem import FileSystem
from tfdist.checkpoint.layout import Array
from tfdist.checkpoint.manifest import Manifest
from tfdist.checkpoint.tensors import read_tensors, verify_tensors

_STEP = re.compile(r"step-(\d{8,18})")


@dataclass(frozen=True)
class Checkpoint:
    """A step that was read: every byte is the one that was saved.

    Attributes:
        manifest: What it consists of, with the plain JSON of all ranks.
        common: What all ranks share.
        ranks: What each rank of the job that saved it had, in order of rank; empty for
            those that were not read.
    """

    manifest: Manifest
    common: dict[str, Array]
    ranks: list[dict[str, Array]]


@dataclass(frozen=True)
class Directory:
    """A directory of steps, to be read by anybody at any time."""

    files: FileSystem
    path: str

    def folder(self, step: int) -> str:
        """Returns the path of a step's folder."""
        return f"{self.path}/step-{step:08d}"

    def folders(self) -> list[int]:
        """Returns the steps that have a folder, whatever is in it, oldest first."""
        matches = map(_STEP.fullmatch, self.files.names(self.path))
        # "step-000000001" would be a second folder of step 1.
        digits = [match[1] for match in matches if match]
        return sorted(int(each) for each in digits if each == f"{int(each):08d}")

    def steps(self) -> tuple[int, ...]:
        """Returns the steps that have a manifest, newest first; it is not read."""
        return tuple(
            step
            for step in reversed(self.folders())
            if manifests.NAME in self.files.names(self.folder(step))
        )

    def manifest(self, step: int) -> Manifest:
        """Returns a step's manifest.

        Raises:
            FileNotFoundError: It has none.
            DamagedError: It is damaged, or that of another step.
            CheckpointError: A newer version of tfdist wrote it.
        """
        path = f"{self.folder(step)}/{manifests.NAME}"
        found = manifests.decode(read_file(self.files, path, manifests.MAX_BYTES), path)
        if found.step != step:
            raise DamagedError(f"{path} is that of step {found.step}")
        return found

    def verify(
        self,
        step: int,
        run_id: str | None = None,
        share: tuple[int, int] = (0, 1),
        *,
        cached: bool = False,
    ) -> str | None:
        """Returns why a step cannot be used, or None.

        Reads and hashes all of it, in pieces of 1 MiB.

        Args:
            step: The step.
            run_id: The run that it has to belong to; None takes any.
            share: (which, of how many): what all ranks share, and every so many-th of
                their own files, from this one on.
            cached: Whether it will be read again, so that memory may keep it.
        """
        first, of = share
        try:
            manifest = self.manifest(step)
            if run_id not in (None, manifest.run_id):
                return f"step {step} is of the run {manifest.run_id}"
            for name in (manifest.common, *manifest.ranks[first::of]):
                path = f"{self.folder(step)}/{name}"
                verify_tensors(self.files, path, manifest.files[name], cached=cached)
        except FileNotFoundError as error:
            return f"{error.filename or error} is missing"
        except (CheckpointError, OSError) as error:
            return str(error).partition("\nHINT")[0]
        return None

    def glance(self, step: int, manifest: Manifest) -> str | None:
        """Returns which file of a step is missing or has another size, or None."""
        for name, written in manifest.files.items():
            path = f"{self.folder(step)}/{name}"
            try:
                source = self.files.open(path)
            except FileNotFoundError:
                return f"{name} is missing"
            except (CheckpointError, OSError) as error:
                return str(error)
            source.close()
            if source.size != written.size:
                return f"{name} has {source.size} bytes instead of {written.size}"
        return None

    def load(self, step: int, ranks: Collection[int] | None = None) -> Checkpoint:
        """Returns a step.

        Args:
            step: The step.
            ranks: Whose own files to read; None reads all.

        Raises:
            OSError: A file cannot be read.
            DamagedError: A file is not what was saved.
            CheckpointError: A newer version of tfdist wrote it.
        """
        manifest = self.manifest(step)

        def read(name: str) -> dict[str, Array]:
            path = f"{self.folder(step)}/{name}"
            return read_tensors(self.files, path, manifest.files[name])

        own = [
            read(name) if ranks is None or rank in ranks else {}
            for rank, name in enumerate(manifest.ranks)
        ]
        return Checkpoint(manifest, read(manifest.common), own)
