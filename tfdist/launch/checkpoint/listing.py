"""The table that `tfdist checkpoint ls` prints."""

from __future__ import annotations

import time
from collections.abc import Sequence

from tfdist.checkpoint import manifest as manifests
from tfdist.checkpoint.directory import Directory
from tfdist.checkpoint.errors import CheckpointError
from tfdist.checkpoint.lock import read_lock
from tfdist.checkpoint.manifest import Manifest
from tfdist.launch.estimate.units import show_bytes

HEADS = ("step", "epoch", "saved", "size", "ranks", "strategy", "state")
_LEFT = ("strategy", "state")


def listing(directory: Directory) -> str:
    """Returns the table of all steps, oldest first, and who uses the directory."""
    committed = set(directory.steps())
    rows = []
    for step in directory.folders():
        if step in committed:
            rows.append(_row(directory, step))
        else:
            rows.append(_unknown(step, f"unfinished: no {manifests.NAME}"))
    lines = [f"{directory.path}: {len(committed)} steps"]
    if rows:
        lines += _table(rows)
    held = read_lock(directory.files, directory.path)
    if held is not None:
        lines.append(f"in use: run {held.run_id}, {held.owner}")
    # What a manifest says must not steer this terminal.
    return "\n".join(
        "".join(letter if letter.isprintable() else "?" for letter in line)
        for line in lines
    )


def _row(directory: Directory, step: int) -> Sequence[str]:
    try:
        manifest = directory.manifest(step)
    except (CheckpointError, OSError) as error:
        return _unknown(step, str(error).splitlines()[0])
    return (
        str(step),
        str(manifest.details.get("epoch", "-"))[:8],
        time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(manifest.time)),
        show_bytes(manifest.size),
        str(manifest.world_size),
        str(manifest.details.get("strategy", "-"))[:24],
        _state(directory, step, manifest),
    )


def _unknown(step: int, reason: str) -> Sequence[str]:
    return (str(step), *["-"] * (len(HEADS) - 2), reason)


def _state(directory: Directory, step: int, manifest: Manifest) -> str:
    reason = directory.glance(step, manifest)
    if reason is not None:
        return reason
    return "complete" if manifest.finite else "complete, with infinities or NaN"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(HEADS, *rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if head in _LEFT else cell.rjust(width)
            for head, cell, width in zip(HEADS, row, widths, strict=True)
        ).rstrip()
        for row in (HEADS, *rows)
    ]
