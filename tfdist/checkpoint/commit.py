"""The chief's save: a step is there from the moment when its manifest is."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from tfdist.checkpoint.errors import CheckpointError, DamagedError
from tfdist.checkpoint.files import publish
from tfdist.checkpoint.lock import Lock
from tfdist.checkpoint.manifest import MAX_TIME, NAME, Manifest, encode
from tfdist.checkpoint.parts import HandedIn, Part, Saving
from tfdist.checkpoint.plain import plain_copy
from tfdist.checkpoint.tensors import Written, verify_tensors
from tfdist.errors import explain


def commit(
    saving: Saving,
    part: Part,
    run_id: str,
    lock: Lock,
    collect: Callable[[], Mapping[str, HandedIn]],
) -> Manifest:
    """Writes the chief's files, waits for the other ranks' and writes the manifest.

    Args:
        saving: The chief's save.
        part: Its part.
        run_id: The run.
        lock: The directory's; this job must still hold it at the end.
        collect: Waits for the other ranks; returns what they handed in, by file.

    Raises:
        ValueError: A name, a dtype or the plain data cannot be written.
        OSError: The file system says so.
        CheckpointError: Another job has the directory, or a rank's part is missing.
            Whatever is raised: what was there before is there still, and of this step
            nothing but what the next one sweeps.
    """
    details = plain_copy(part.details, "details")
    own_details = plain_copy(part.own_details, "own details")
    own, common = saving.rank_file(0), saving.common_file
    lock.check()
    files = saving.directory.files
    files.make_directory(saving.folder)
    try:
        parts = {own: HandedIn(saving.write(own, part.own), own_details)}
        shared = saving.write(common, part.common)
        parts.update(collect())
        files.sync_directory(saving.directory.path)  # the folder's own name
        written = {name: each.written for name, each in parts.items()}
        written[common] = shared
        if saving.again:  # what it replaces may be the only step that is whole
            _read_back(saving, written)
        lock.check()
    except BaseException:
        _discard(saving, own, common)
        raise
    manifest = Manifest(
        run_id=run_id,
        session=saving.session,
        step=saving.step,
        world_size=saving.size,
        time=min(max(time.time(), 0.0), MAX_TIME),  # a clock may say anything
        common=common,
        ranks=list(parts),
        files=written,
        details=details,
        own_details=[each.details for each in parts.values()],
    )
    publish(files, f"{saving.folder}/{NAME}", encode(manifest))
    return manifest


def _read_back(saving: Saving, written: Mapping[str, Written]) -> None:
    for name, each in written.items():
        try:
            verify_tensors(saving.directory.files, f"{saving.folder}/{name}", each)
        except DamagedError as error:
            raise CheckpointError(
                explain(
                    f"Step {saving.step} reads back damaged before it was committed",
                    received=error,
                    expected="the bytes that were written",
                    hint="Check the disk. What was saved of this step before is kept.",
                )
            ) from error


def _discard(saving: Saving, *names: str) -> None:
    try:
        for name in names:
            saving.directory.files.remove(f"{saving.folder}/{name}")
    except OSError:
        pass  # the first error is the one to tell; the next sweep tries again
