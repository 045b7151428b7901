"""What ranks agree on around checkpoints: played by threads, without TensorFlow."""

import shutil
import threading

import numpy as np
import pytest

from tfdist import cluster
from tfdist.callbacks.recovery_ranks import Ranks, newest_common, open_together
from tfdist.checkpoint.errors import CheckpointError
from tfdist.checkpoint.local import LocalFileSystem
from tfdist.checkpoint.store import Part, Store
from tfdist.errors import StallError
from tfdist.strategies.training import KerasTraining

SECONDS = 30.0


class Thread(Ranks):
    """One of several ranks, each in a thread of its own."""

    def __init__(self, rank, values, barrier):
        super().__init__(None)
        self.rank, self.values, self.barrier = rank, values, barrier

    def gather(self, value):
        self.values[self.rank] = value
        self.barrier.wait(SECONDS)
        found = list(self.values)
        self.barrier.wait(SECONDS)
        return found


def on_all(action, size=2):
    """Return what `action(ranks, rank)` returns or raises on each rank."""
    values, barrier, results = [0] * size, threading.Barrier(size), [None] * size

    def run(rank):
        try:
            results[rank] = action(Thread(rank, values, barrier), rank)
        except Exception as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * SECONDS)
    assert not any(thread.is_alive() for thread in threads), "a rank waits for ever"
    return results


@pytest.fixture
def views(tmp_path):
    """Return what each of two ranks sees: the same three steps."""
    with_steps(tmp_path / "0", steps=(3, 6, 9))
    shutil.copytree(tmp_path / "0", tmp_path / "1")
    return [tmp_path / "0", tmp_path / "1"]


def with_steps(path, steps, value=1.0):
    store = Store(path, keep=9)
    store.open()
    for step in steps:
        store.save(step, Part(common={"model/w": np.full(3, value, "f")}))
    store.close()


def newest(views):
    def find(ranks, rank):
        checkpoint, reasons = newest_common(ranks, Store(views[rank]))
        return checkpoint and checkpoint.manifest.step, reasons

    return on_all(find)


def test_all_take_the_newest(views):
    assert newest(views) == [(9, {}), (9, {})]


@pytest.mark.failure(27)
def test_ranks_take_the_newest_that_all_have(views):
    shutil.rmtree(views[1] / "step-00000009")
    (one, reasons), (other, _) = newest(views)
    assert (one, other) == (6, 6)
    assert reasons == {9: "rank 1 has no good one"}


@pytest.mark.failure(5, 27)
def test_damage_on_different_ranks_leaves_what_is_whole_everywhere(views):
    for view, step in ((views[0], 9), (views[1], 6)):
        (path,) = (view / f"step-{step:08d}").glob("common*")
        path.write_bytes(path.read_bytes()[:-1])
    (one, reasons), (other, _) = newest(views)
    assert (one, other) == (3, 3)
    assert set(reasons) == {6, 9}


class Opened(LocalFileSystem):
    """Notes which files of tensors are opened."""

    def __init__(self):
        self.found = []

    def open(self, path, *, cached=True):
        name = path.rpartition("/")[2]
        if name.endswith(".safetensors"):
            self.found.append("common" if name.startswith("common") else name[:9])
        return super().open(path, cached=cached)


def of_ranks(path, size, steps):
    """Save steps of a job of several ranks, each with something of its own."""
    stores = [Store(path, rank=rank, size=size) for rank in range(size)]
    session = stores[0].open()
    for store in stores[1:]:
        store.open(session)
    for step in steps:
        for store in reversed(stores):
            own = {"model/own": np.full(2, store.rank, "f")}
            store.save(step, Part(own=own, common={"model/w": np.zeros(3, "f")}))
    stores[0].close()


def read_by_all(path, size, needed=lambda rank: [rank]):
    """Return what each rank is given, and the files that it has opened."""
    files = [Opened() for _ in range(size)]

    def find(ranks, rank):
        store = Store(path, rank=rank, size=size, filesystem=files[rank])
        return newest_common(ranks, store, lambda manifest: needed(rank))

    return on_all(find, size), [each.found for each in files]


def test_each_rank_reads_what_is_its_own(tmp_path):
    of_ranks(tmp_path, 3, steps=(3, 6))
    results, opened = read_by_all(tmp_path, 3)
    for rank, (checkpoint, _) in enumerate(results):
        assert [len(arrays) for arrays in checkpoint.ranks] == np.eye(3)[rank].tolist()
        assert checkpoint.ranks[rank]["model/own"][0] == rank
        # To verify them, and to read them.
        assert sorted(opened[rank]) == ["common"] * 2 + [f"rank-{rank:04d}"] * 2


def test_with_fewer_ranks_all_files_are_verified_and_read(tmp_path):
    of_ranks(tmp_path, 3, steps=(3,))
    results, opened = read_by_all(tmp_path, 2, needed=lambda rank: None)
    for rank, (checkpoint, _) in enumerate(results):
        assert [each["model/own"][0] for each in checkpoint.ranks] == [0, 1, 2]
        verified = ["common", "rank-0000", "rank-0002"] if rank == 0 else None
        assert opened[rank][:-4] == (verified or ["common", "rank-0001"])


@pytest.mark.failure(2, 5)
@pytest.mark.parametrize("size", [3, 2, 1])
@pytest.mark.parametrize("rank", [0, 1, 2])
def test_damage_in_any_rank_s_file_is_found_by_one_and_told_by_the_chief(
    tmp_path, rank, size
):
    of_ranks(tmp_path, 3, steps=(3, 6))
    (path,) = (tmp_path / "step-00000006").glob(f"rank-{rank:04d}*")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    results, _ = read_by_all(tmp_path, size)
    assert [checkpoint.manifest.step for checkpoint, _ in results] == [3] * size
    assert path.name in results[0][1][6] and "SHA-256" in results[0][1][6]


@pytest.mark.failure(28)
def test_a_rank_that_sees_nothing_is_no_fresh_start(views, tmp_path):
    views[1] = tmp_path / "empty"
    for error in newest(views):
        assert isinstance(error, CheckpointError)
        assert "none on rank 1, 3 elsewhere" in str(error)


def test_nothing_anywhere_is_a_fresh_start(tmp_path):
    assert newest([tmp_path / "a", tmp_path / "b"]) == [(None, {}), (None, {})]


@pytest.mark.failure(18)
def test_steps_that_are_not_finite_are_the_last_resort(tmp_path):
    with_steps(tmp_path, steps=(3,))
    with_steps(tmp_path, steps=(6, 9), value=np.nan)
    (step, reasons), _ = newest([tmp_path, tmp_path])
    assert step == 3
    assert reasons == dict.fromkeys((6, 9), "it holds infinities or NaN")
    shutil.rmtree(tmp_path / "step-00000003")
    assert newest([tmp_path, tmp_path])[0][0] == 9


@pytest.mark.failure(44)
def test_a_directory_that_the_chief_cannot_use_is_told_to_all(tmp_path):
    (tmp_path / "file").touch()

    def open_all(ranks, rank):
        store = Store(tmp_path / "file", rank=rank, size=2)
        if rank == 0:
            open_together(ranks, store)
        else:  # threads share the process, whose rank is 0
            ranks.together("Opening", lambda: 0)

    first, second = on_all(open_all)
    assert isinstance(first, CheckpointError)
    assert "HINT" in str(first)
    assert "an error on rank 0" in str(second)


@pytest.mark.failure(31)
def test_ranks_meet_at_the_ledger_before_a_collective(monkeypatch):
    """The collective of a library has a limit of its own, and names nobody."""
    met = []

    class Strategy(KerasTraining):
        def __init__(self):
            pass

        def agree(self, what, details=None, timeout=300.0):
            met.append((what, timeout))
            if len(met) == 2:
                raise StallError("Rank 1 has been silent for 7 s.")

        def gather_integers(self, value):
            met.append("gather")
            return [value, value]

    monkeypatch.setattr(cluster, "size", lambda: 2)
    ranks = Ranks(Strategy(), timeout=7.0)
    assert ranks.together("Reading", lambda: 5) == 5
    assert met == [("Reading", 7.0), "gather"]
    del met[1]
    with pytest.raises(StallError, match="Rank 1"):
        ranks.together("Reading", lambda: 5)
    assert met[1:] == [("Reading", 7.0)]


def test_an_error_on_one_rank_is_raised_on_all():
    def act(ranks, rank):
        return ranks.together("Dividing", lambda: 1 // rank)

    first, second = on_all(act)
    assert isinstance(first, ZeroDivisionError)
    assert isinstance(second, CheckpointError)
    assert "an error on rank 0" in str(second)
