"""Which GPU belongs to this rank: one pure function, testable without a GPU."""

from __future__ import annotations

from collections.abc import Sequence

from tfdist.errors import explain


def choose_device(
    visible_gpus: Sequence[str],
    local_rank: int,
    local_size: int,
    cuda_visible_devices: str | None,
) -> str | None:
    """Chooses this rank's own GPU, or None for the CPU.

    One GPU belongs to one rank. Two layouts are right: every rank of the host
    sees all GPUs and takes the one of its local rank; or the launcher has bound
    one GPU to each rank (Slurm's --gpus-per-task=1), which then is the only one
    that the rank sees, whatever its local rank.

    Args:
        visible_gpus: The GPUs that TensorFlow lists, in its order.
        local_rank: This process's number on its host.
        local_size: The number of processes on this host.
        cuda_visible_devices: The variable CUDA_VISIBLE_DEVICES, None if unset.

    Returns:
        An element of `visible_gpus`, or None where there is no GPU.

    Raises:
        ValueError: The host has fewer GPUs than ranks, or the local rank is out
            of range.

    Example:
        >>> choose_device(["GPU:0", "GPU:1"], 1, 2, None)
        'GPU:1'
        >>> choose_device(["GPU:0"], 1, 2, "3")  # bound by the launcher
        'GPU:0'
    """
    if not 0 <= local_rank < local_size:
        raise ValueError(
            explain(
                "The local rank is out of range",
                received=f"local_rank={local_rank}, local_size={local_size}",
                expected="0 <= local_rank < local_size",
                hint="Let the launcher number the processes of each host.",
            )
        )
    if not visible_gpus:
        return None
    # Without CUDA_VISIBLE_DEVICES nobody bound anything: a lone GPU is shared.
    bound = len(visible_gpus) == 1 and cuda_visible_devices is not None
    if bound:
        return visible_gpus[0]
    if len(visible_gpus) < local_size:
        shown = "is not set"
        if cuda_visible_devices is not None:
            shown = f"is {cuda_visible_devices!r}"
        raise ValueError(
            explain(
                "This host has fewer GPUs than ranks",
                received=f"{len(visible_gpus)} visible GPUs for {local_size} ranks "
                f"(CUDA_VISIBLE_DEVICES {shown})",
                expected="one GPU a rank",
                hint=f"Start at most {len(visible_gpus)} processes on this host, bind "
                "one GPU to each (srun --gpus-per-task=1), or set "
                "CUDA_VISIBLE_DEVICES=-1 to train on CPUs.",
            )
        )
    return visible_gpus[local_rank]
