"""Device choice with made-up lists of GPUs: (visible, rank, size, variable)."""

from __future__ import annotations

import pytest

from tfdist.strategies.devices import choose_device

FOUR = [f"/physical_device:GPU:{index}" for index in range(4)]


@pytest.mark.parametrize("local_rank", range(4))
@pytest.mark.parametrize("variable", [None, "0,1,2,3"])
def test_every_rank_takes_its_own_of_all(local_rank, variable):
    assert choose_device(FOUR, local_rank, 4, variable) == FOUR[local_rank]


def test_no_two_ranks_share_a_gpu():
    chosen = [choose_device(FOUR, rank, 3, None) for rank in range(3)]
    assert len(set(chosen)) == 3


@pytest.mark.parametrize("local_rank", range(4))
def test_a_rank_that_is_bound_to_one_gpu_takes_it(local_rank):
    # Slurm's --gpus-per-task=1: each sees one, named 0 inside TensorFlow.
    assert choose_device(FOUR[:1], local_rank, 4, str(local_rank)) == FOUR[0]
    assert choose_device(FOUR[:1], local_rank, 4, "GPU-8f2a") == FOUR[0]


@pytest.mark.parametrize("variable", [None, "", "-1", "0"])
def test_no_gpu_means_the_cpu(variable):
    assert choose_device([], 1, 2, variable) is None


def test_one_process_takes_the_first():
    assert choose_device(FOUR, 0, 1, None) == FOUR[0]
    assert choose_device(FOUR[:1], 0, 1, None) == FOUR[0]


@pytest.mark.parametrize(
    ("visible", "local_size", "variable", "shown"),
    [
        (FOUR, 5, None, "CUDA_VISIBLE_DEVICES is not set"),
        (FOUR[:2], 3, "0,1", "CUDA_VISIBLE_DEVICES is '0,1'"),
        (FOUR[:2], 3, "0,1,9", "'0,1,9'"),  # CUDA stops at a number it lacks
        (FOUR[:1], 2, None, "1 visible GPUs for 2 ranks"),  # a lone, unbound GPU
    ],
)
@pytest.mark.parametrize("local_rank", [0, 1])
def test_fewer_gpus_than_ranks_is_an_error_on_every_rank(
    visible, local_size, variable, shown, local_rank
):
    with pytest.raises(ValueError, match="fewer GPUs than ranks") as caught:
        choose_device(visible, local_rank, local_size, variable)
    assert shown in str(caught.value)
    assert "HINT: Start at most" in str(caught.value)


@pytest.mark.parametrize(("local_rank", "local_size"), [(2, 2), (-1, 2), (0, 0)])
def test_a_local_rank_out_of_range_is_an_error(local_rank, local_size):
    with pytest.raises(ValueError, match="local rank is out of range"):
        choose_device(FOUR, local_rank, local_size, None)
