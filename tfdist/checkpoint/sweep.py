"""Removes what crashes have left, and steps that are not needed any more."""

from __future__ import annotations

import re

from tfdist.checkpoint import manifest as manifests
from tfdist.checkpoint.directory import Directory
from tfdist.checkpoint.errors import CheckpointError
from tfdist.checkpoint.manifest import Manifest
from tfdist.checkpoint.parts import is_second

# What a save leaves in a folder. Anything else is somebody's, and stays.
_OWN = re.compile(
    r"(common|rank-\d{4,}-of-\d{4,})-[0-9a-f]{8}(-2)?\.safetensors(\.json)?(\.tmp)?"
    r"|MANIFEST\.json(\.tmp)?"
)


_PROBE = re.compile(r"probe-[0-9a-f]{8}(-\d+)?(\.tmp)?|LOCK\.tmp")


def delete_step(directory: Directory, step: int) -> None:
    """Deletes a step so that a crash cannot leave it half: its manifest goes first."""
    folder = directory.folder(step)
    directory.files.remove(f"{folder}/{manifests.NAME}")
    directory.files.sync_directory(folder)
    _clear(directory, step, keep=set())


def sweep(directory: Directory, *, before: int | None = None) -> list[str]:
    """Removes the files of saves that were never committed.

    Only who holds the lock may call it, and only for steps that no rank of this job
    still writes.

    Args:
        directory: The directory.
        before: Only folders of earlier steps, and only those without a manifest.

    Returns:
        The files that were removed, as paths in the directory.
    """
    removed: list[str] = []
    committed = set(directory.steps())
    for step in directory.folders():
        if before is not None and (step >= before or step in committed):
            continue
        keep: set[str] | None = set()
        if step in committed:
            keep = _needed(directory, step)
        if keep is not None:
            removed += _clear(directory, step, keep)
    return removed


def sweep_probes(directory: Directory) -> None:
    """Removes what was written only to see whether it can be."""
    for name in directory.files.names(directory.path):
        if _PROBE.fullmatch(name):
            directory.files.remove(f"{directory.path}/{name}")


def tidy(directory: Directory, manifest: Manifest) -> None:
    """Removes the notes of a step that was just committed, and what it has replaced.

    What replaces it in turn stays: other ranks may have handed that in already.
    """
    needed = {manifests.NAME, *manifest.files}
    coming = None if is_second(manifest.common, manifest.session) else manifest.session
    _clear(directory, manifest.step, needed, coming)


def _needed(directory: Directory, step: int) -> set[str] | None:
    """Returns the files of a step; None if its manifest does not tell."""
    try:
        return {manifests.NAME, *directory.manifest(step).files}
    except (CheckpointError, OSError):
        return None


def _clear(
    directory: Directory, step: int, keep: set[str], coming: str | None = None
) -> list[str]:
    folder = directory.folder(step)
    names = [name for name in directory.files.names(folder) if _OWN.fullmatch(name)]
    if coming is not None:
        names = [name for name in names if not is_second(name, coming)]
    doomed = [name for name in names if name not in keep]
    for name in doomed:
        directory.files.remove(f"{folder}/{name}")
    if not keep:
        directory.files.remove_directory(folder)
    return [f"{folder}/{name}" for name in doomed]
