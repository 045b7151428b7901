"""Where the ranks' output goes: all into files, rank 0's also to the terminal."""

from __future__ import annotations

import json
import os
import select
import sys
from collections.abc import Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

from tfdist.launch.run.child import STDERR, STDOUT

LAUNCHER_LOG = "launcher.log"
EXITS = "exits.jsonl"


def attempt_folder(folder: Path, restarts: int) -> Path:
    """Returns where the logs go of one of several starts."""
    return folder / f"attempt-{restarts}"


def remove_old(folder: Path) -> None:
    """Removes the logs of an earlier run, and nothing else."""
    for attempt in folder.glob("attempt-*"):
        remove_old(attempt)
        with suppress(OSError):  # somebody else's files are in there
            attempt.rmdir()
    for old in (*folder.glob("rank-*.log"), folder / EXITS, folder / LAUNCHER_LOG):
        old.unlink(missing_ok=True)


class Logs:
    """The files of one start of a job.

    Args:
        folder: Made if it is not there; see `remove_old` for what it may hold.
        size: The number of ranks.
    """

    def __init__(self, folder: Path, size: int):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._digits = len(str(size - 1))
        self._files = [self.path(rank).open("wb", buffering=0) for rank in range(size)]
        self._exits = (folder / EXITS).open("wb", buffering=0)
        self.launcher: BinaryIO = (folder / LAUNCHER_LOG).open("wb")
        self._complete = True  # nothing is missing in a file
        self._with_reader = {STDOUT, STDERR}  # of our own streams

    def path(self, rank: int) -> Path:
        """Returns the log of a rank."""
        return self.folder / f"rank-{rank:0{self._digits}}.log"

    def write(self, rank: int, kind: int, data: bytes, shown: bool) -> None:
        """Takes what a rank wrote, and shows it to the user as it is."""
        self._keep(self._files[rank], data)
        if shown:
            self._show(kind, data)

    def record(self, exit_record: Mapping[str, Any]) -> None:
        """Takes how a rank ended, as one line of JSON; the first one comes first."""
        self._keep(self._exits, json.dumps(exit_record).encode() + b"\n")

    def close(self) -> None:
        """Closes the files."""
        for file in (*self._files, self.launcher, self._exits):
            with suppress(OSError):  # where a full disk is noticed only here
                file.close()

    def _keep(self, file: FileIO, data: bytes) -> None:
        try:
            while data:
                data = data[file.write(data) :]
        except OSError as error:  # a full disk is no reason to end a training
            if self._complete:
                self._complete = False
                text = f"tfdist: the logs are incomplete: {file.name}: {error}\n"
                self._show(STDERR, text.encode(errors="replace"))

    def _show(self, kind: int, data: bytes) -> None:
        stream = sys.stdout if kind == STDOUT else sys.stderr
        while data and kind in self._with_reader:
            try:
                stream.flush()
                data = data[os.write(stream.fileno(), data) :]
            except BlockingIOError:  # somebody who shares the terminal has set this
                select.select([], [stream], [])
            except OSError:  # nobody reads any more, as in `tfdist run ... | head`
                self._with_reader.discard(kind)
