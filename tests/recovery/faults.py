"""A file system that counts its operations and lets something happen at one of them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tfdist.checkpoint.filesystem import FileSystem, Sink, Source

BEFORE, WITHIN, AFTER = "before", "within", "after"
READING = ("names", "open", "read", "exclusive")

# Called with the operation's number, its name, the path, and when.
Happening = Callable[[int, str, str, str], None]


@dataclass
class Watched:
    """Passes all operations on; a write in two halves, so that there is a middle.

    Operations of `ignored` kinds are passed on without being counted.
    """

    files: FileSystem
    happening: Happening = lambda *_: None
    ignored: tuple[str, ...] = ()
    done: list[tuple[str, str]] = field(default_factory=list)  # operation, path

    @property
    def renames(self) -> bool:
        return self.files.renames

    @contextmanager
    def around(self, operation: str, path: str) -> Iterator[Callable[[], None]]:
        """Counts an operation; yields what to call in its middle."""
        if operation in self.ignored:
            yield lambda: None
            return
        number = len(self.done)
        self.done.append((operation, path))
        self.happening(number, operation, path, BEFORE)
        yield lambda: self.happening(number, operation, path, WITHIN)
        self.happening(number, operation, path, AFTER)

    def make_directory(self, path: str, *, parents: bool = False) -> None:
        with self.around("make_directory", path):
            self.files.make_directory(path, parents=parents)

    def names(self, path: str) -> list[str]:
        with self.around("names", path):
            return self.files.names(path)

    def create(self, path: str) -> Sink:
        with self.around("create", path):
            return _WatchedSink(self.files.create(path), path, self)

    def open(self, path: str, *, cached: bool = True) -> Source:
        with self.around("open", path):
            return _WatchedSource(self.files.open(path, cached=cached), path, self)

    def replace(self, source: str, target: str) -> None:
        with self.around("replace", target):
            self.files.replace(source, target)

    def remove(self, path: str) -> None:
        with self.around("remove", path):
            self.files.remove(path)

    def remove_directory(self, path: str) -> None:
        with self.around("remove_directory", path):
            self.files.remove_directory(path)

    def sync_directory(self, path: str) -> None:
        with self.around("sync_directory", path):
            self.files.sync_directory(path)

    @contextmanager
    def exclusive(self, path: str) -> Iterator[None]:
        with self.around("exclusive", path):
            block = self.files.exclusive(path)
            block.__enter__()
        try:
            yield
        finally:
            block.__exit__(None, None, None)


@dataclass
class _WatchedSink:
    sink: Sink
    path: str
    files: Watched

    def write(self, data: memoryview) -> None:
        with self.files.around("write", self.path) as middle:
            half = len(data) // 2
            self.sink.write(data[:half])
            middle()
            self.sink.write(data[half:])

    def sync(self) -> None:
        with self.files.around("sync", self.path):
            self.sink.sync()

    def close(self) -> None:
        with self.files.around("close", self.path):
            self.sink.close()

    def discard(self) -> None:
        self.sink.discard()


@dataclass
class _WatchedSource:
    source: Source
    path: str
    files: Watched

    @property
    def size(self) -> int:
        return self.source.size

    def read_into(self, buffer: memoryview) -> int:
        with self.files.around("read", self.path):
            return self.source.read_into(buffer)

    def close(self) -> None:
        self.source.close()


def moments(done: list[tuple[str, str]]) -> Iterator[tuple[int, str]]:
    """All points at which something can happen, after a dry run has counted.

    After one operation is before the next.
    """
    for number, (operation, _) in enumerate(done):
        yield number, BEFORE
        if operation == "write":
            yield number, WITHIN
    yield len(done) - 1, AFTER
