"""Where built wheels are kept, and which of them is installed."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib import metadata
from pathlib import Path, PurePosixPath

from tfdist.launch.errors import CommandError
from tfdist.launch.horovod_plan import BuildPlan


def cache_folder() -> Path:
    """Returns `$TFDIST_CACHE`, `$XDG_CACHE_HOME/tfdist` or `~/.cache/tfdist`."""
    chosen = os.environ.get("TFDIST_CACHE")
    if chosen:
        return Path(chosen).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).absolute() / "tfdist"


@contextmanager
def locked_shelf(plan: BuildPlan) -> Iterator[Path]:
    """Gives this process alone the cache's folder for one plan.

    Two commands at once thus build once: the second waits, then finds the wheel.

    Raises:
        CommandError: The cache cannot be written.
    """
    shelf = cache_folder() / "horovod" / plan.key
    try:
        shelf.mkdir(parents=True, exist_ok=True)
        (shelf / "plan.json").write_text(json.dumps(asdict(plan), indent=2) + "\n")
        lock = (shelf / "lock").open("w")
    except OSError as error:
        raise CommandError(
            f"The cache {shelf} cannot be written: {error.strerror}.",
            hint="set TFDIST_CACHE=DIR",
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("horovod: waiting for another build of the same", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield shelf


def cached_wheel(shelf: Path) -> Path | None:
    """Returns the wheel on a shelf, if one was built."""
    return next(shelf.glob("horovod-*.whl"), None)


def installed_key() -> str | None:
    """Returns the key of the plan that the installed Horovod was built by.

    pip records the address of a wheel that was installed from a file
    (`direct_url.json`, PEP 610), and the wheel's folder in the cache is named
    after its key; so the record comes and goes with the installation.

    Returns:
        The key; None if Horovod is not installed or was not built by tfdist.
    """
    try:
        record = metadata.distribution("horovod").read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        return None
    return key_in_record(record)


def key_in_record(record: str | None) -> str | None:
    """Returns the plan's key in the text of a `direct_url.json`.

    Example:
        >>> key_in_record('{"url": "file:///c/horovod/0123456789abcdef/h.whl"}')
        '0123456789abcdef'
    """
    if not record:
        return None
    folder = PurePosixPath(json.loads(record)["url"]).parent
    return folder.name if folder.parent.name == "horovod" else None
