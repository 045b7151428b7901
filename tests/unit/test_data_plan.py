"""Who reads which file, and how many rows go into each step."""

import itertools

import numpy as np
import pytest

from tfdist.data import plan as plans
from tfdist.data.sharding import split_sizes

COUNTS = ([7, 7, 7, 7], [5, 1, 9, 2, 3], [1, 40], [30, 1, 1], [4, 0, 4], [12])


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("drop_remainder", [False, True])
def test_all_steps_and_all_rows_add_up(counts, processes, replicas, drop_remainder):
    plan = plans.make_plan(
        counts, 6, processes, replicas, drop_remainder=drop_remainder
    )
    rows = plan.sizes.sum(axis=(1, 2))
    assert plan.sizes.shape == (plan.steps, processes, replicas)
    assert (plan.sizes >= 0).all()
    assert (rows[:-1] == 6).all()
    assert (rows[-1] == 6) if drop_remainder else (rows.sum() == sum(counts))
    if plan.by_files:
        files = sorted(itertools.chain(*plan.files))
        assert files == list(range(len(counts)))
        owned = [sum(counts[i] for i in mine) for mine in plan.files]
        used = plan.sizes.sum(axis=(0, 2))
        assert (used <= owned).all()
        assert drop_remainder or used.tolist() == owned
    else:
        assert plan.files == [list(range(len(counts)))] * processes
        for step, row_count in zip(plan.sizes, rows, strict=True):
            whole = split_sizes(int(row_count), processes * replicas)
            assert step.reshape(-1).tolist() == whole


@pytest.mark.parametrize(
    ("counts", "by_files"),
    [([3, 3, 3], True), ([5, 4, 4], True), ([3, 3], False), ([3, 3, 3, 3], False)],
)
def test_by_files_only_if_they_share_evenly(counts, by_files):
    assert plans.make_plan(counts, 2, processes=3).by_files is by_files


@pytest.mark.parametrize("files", [4, 7, 15])
@pytest.mark.parametrize("drop_remainder", [False, True])
def test_no_process_is_left_without_files(files, drop_remainder):
    # Nobody holds more than 5/4 of an even share, but one process nothing at all.
    counts, processes = [20] * files, files + 1
    plan = plans.make_plan(counts, 8, processes, drop_remainder=drop_remainder)
    assert not plan.by_files
    assert all(plan.files)
    assert plan.steps == 20 * files // 8 + (not drop_remainder and files % 2)


@pytest.mark.parametrize(
    ("counts", "batch", "processes", "by_files", "steps"),
    [
        ([100] * 31, 160, 16, False, 19),  # by files 10: one process has one file
        ([5, 3], 8, 2, False, 1),  # by files none
        ([8, 7], 4, 2, True, 3),
    ],
)
def test_dropping_the_remainder_leaves_out_little(
    counts, batch, processes, by_files, steps
):
    plan = plans.make_plan(counts, batch, processes, drop_remainder=True)
    assert (plan.by_files, plan.steps) == (by_files, steps)


def test_the_caller_may_choose():
    assert not plans.make_plan([3, 3, 3], 2, processes=3, shard="records").by_files
    assert plans.make_plan([3, 3, 3, 3], 2, processes=3, shard="files").by_files
    few = plans.make_plan([100] * 31, 160, 16, drop_remainder=True, shard="files")
    assert few.steps == 10


def test_owners_run_out_together():
    shares = plans.proportional_shares([300, 100], [40] * 10)
    assert (abs(shares - [30, 10]) <= 1).all()


def test_ownership_is_balanced():
    counts = np.random.default_rng(0).integers(50, 150, 64).tolist()
    loads = [sum(counts[i] for i in mine) for mine in plans.assign_files(counts, 8)]
    assert max(loads) - min(loads) < 20
    naive = [sum(counts[i::8]) for i in range(8)]
    assert max(naive) - min(naive) >= 20  # or the bound above shows nothing


def test_a_static_batch_only_if_every_replica_has_it():
    assert plans.make_plan([8, 8], 4, processes=2).uniform_size == 2
    # Process 0 has two rows in every step, but process 1 has not.
    uneven = plans.make_plan([8, 7], 4, processes=2)
    assert uneven.uniform_size is None
    dropped = plans.make_plan([8, 7], 4, processes=2, drop_remainder=True)
    assert (dropped.uniform_size, dropped.steps) == (2, 3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"counts": [3], "shard": "lines"}, "Unknown shard mode"),
        ({"counts": [3], "processes": 2, "shard": "files"}, "for each of the 2"),
        ({"counts": [0, 0]}, "not one batch"),
        ({"counts": [3], "drop_remainder": True}, "not one batch"),
    ],
)
def test_errors_say_what_was_received_and_the_fix(arguments, words):
    with pytest.raises(ValueError, match=f"(?s){words}.*HINT: "):
        plans.make_plan(global_batch_size=4, **arguments)
