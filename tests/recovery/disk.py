"""A disk that can lose its power: what was not synced may be gone, in any combination.

A file's bytes are durable after its `sync`, the names in a folder after the folder's.
Until then the disk may have written any of it or none, in any order: so POSIX says, and
so real file systems behave.

References:
    Pillai et al., All file systems are not created equal: on the complexity of crafting
    crash-consistent applications, OSDI 2014.
"""

import errno
import random
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from tfdist.checkpoint.filesystem import Sink, Source


@dataclass
class File:
    """A file's bytes, as programs see them and as the disk has them."""

    seen: bytes = b""
    durable: bytes = b""


@dataclass
class Folder:
    """A folder's names, as programs see them and as the disk has them."""

    seen: dict[str, "File | Folder"] = field(default_factory=dict)
    durable: dict[str, "File | Folder"] = field(default_factory=dict)


# Decides of something that was not synced whether the disk has it all the same.
Choice = Callable[[], bool]


class Disk:
    """A file system in memory. All paths begin with `/`."""

    renames = True

    def __init__(self, root: Folder | None = None) -> None:
        self.root = root or Folder()

    def after_power_loss(self, has_names: Choice, has_data: Choice) -> "Disk":
        """Returns the disk as it is when the power is back."""
        return Disk(_survivor(self.root, has_names, has_data))

    def make_directory(self, path: str, *, parents: bool = False) -> None:
        if parents:
            node = self.root
            for name in path.strip("/").split("/"):
                child = node.seen.setdefault(name, Folder())
                node.durable.setdefault(name, child)
                node = child
            return
        folder, name = self._parent(path)
        folder.seen.setdefault(name, Folder())

    def names(self, path: str) -> list[str]:
        try:
            return sorted(self._folder(path).seen)
        except OSError:
            return []

    def create(self, path: str) -> Sink:
        folder, name = self._parent(path)
        file = folder.seen.get(name)
        if not isinstance(file, File):
            file = folder.seen[name] = File()
        file.seen = b""
        return _DiskSink(file)

    def open(self, path: str, *, cached: bool = True) -> Source:
        folder, name = self._parent(path)
        file = folder.seen.get(name)
        if not isinstance(file, File):
            raise FileNotFoundError(errno.ENOENT, "missing", path)
        return _DiskSource(file.seen)

    def replace(self, source: str, target: str) -> None:
        old, old_name = self._parent(source)
        new, new_name = self._parent(target)
        new.seen[new_name] = old.seen.pop(old_name)

    def remove(self, path: str) -> None:
        folder, name = self._parent(path)
        folder.seen.pop(name, None)

    def remove_directory(self, path: str) -> None:
        folder, name = self._parent(path)
        if not self._folder(path).seen:
            folder.seen.pop(name, None)

    def sync_directory(self, path: str) -> None:
        folder = self._folder(path)
        folder.durable = dict(folder.seen)

    def exclusive(self, path: str) -> AbstractContextManager[None]:
        return nullcontext()

    def _folder(self, path: str) -> Folder:
        node: File | Folder | None = self.root
        for name in path.strip("/").split("/"):
            node = node.seen.get(name) if isinstance(node, Folder) else None
        if not isinstance(node, Folder):
            raise FileNotFoundError(errno.ENOENT, "missing", path)
        return node

    def _parent(self, path: str) -> tuple[Folder, str]:
        parent, _, name = path.rpartition("/")
        return self._folder(parent), name


def _survivor(folder: Folder, has_names: Choice, has_data: Choice) -> Folder:
    names = dict(folder.durable)
    for name in sorted({*folder.seen, *folder.durable}):
        if folder.seen.get(name) is not folder.durable.get(name) and has_names():
            names.pop(name, None)
            if name in folder.seen:
                names[name] = folder.seen[name]
    found: dict[str, File | Folder] = {}
    for name, node in names.items():
        if isinstance(node, Folder):
            found[name] = _survivor(node, has_names, has_data)
        else:
            data = node.durable
            if node.seen != node.durable and has_data():
                data = node.seen
            found[name] = File(data, data)
    return Folder(dict(found), dict(found))


@dataclass
class _DiskSink:
    file: File

    def write(self, data: memoryview) -> None:
        self.file.seen += bytes(data)

    def sync(self) -> None:
        self.file.durable = self.file.seen

    def close(self) -> None:
        pass

    discard = close


class _DiskSource:
    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0
        self.size = len(data)

    def read_into(self, buffer: memoryview) -> int:
        data = self._data[self._at : self._at + len(buffer)]
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        pass


def losses(seed: int) -> dict[str, tuple[Choice, Choice]]:
    """What of the rest a disk may have: nothing, names, data, or some of both."""
    dice = random.Random(seed)

    def some() -> bool:
        return dice.random() < 0.5

    def every() -> bool:
        return True

    def none() -> bool:
        return False

    return {
        "nothing": (none, none),
        "names": (every, none),
        "data": (none, every),
        "some": (some, some),
    }
