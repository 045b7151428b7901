"""PyTorch's DistributedDataParallel over Gloo, with its own hooks for compression."""

from __future__ import annotations

import os
from typing import Any

from benchmarks.network import models
from benchmarks.network.programs import rank


def main() -> None:
    """Trains until there are no more orders."""
    me = rank.start()
    import torch
    from torch import distributed
    from torch.nn.functional import cross_entropy
    from torch.nn.parallel import DistributedDataParallel

    from benchmarks.network.programs import torch_models

    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", os.environ["BENCHMARK_MASTER"], rank=me.rank, world_size=me.ranks
    )
    torch.manual_seed(models.SEED)
    model = DistributedDataParallel(
        torch_models.build(me.model),
        # PowerSGD's second all-reduce of each bucket begins when its first one ends:
        # over Gloo (torch 2.14) in another order on each rank, which crashes.
        bucket_cap_mb=1000 if me.options.get("hook") == "powersgd" else None,
    )
    _hook(model, me.options)
    task = models.task(me.model)
    optimizer = torch.optim.SGD(model.parameters(), task.learning_rate, momentum=0.9)
    inputs, labels = (torch.from_numpy(array.copy()) for array in me.batches())

    def step(number: int) -> float:
        optimizer.zero_grad()
        loss = cross_entropy(model(inputs[number]), labels[number])
        loss.backward()
        optimizer.step()
        return float(loss)

    shapes = [list(parameter.shape) for parameter in model.parameters()]
    rank.serve(me.orders, step, shapes=shapes, sparse=0.0)
    distributed.destroy_process_group()


def _hook(model: Any, options: dict[str, Any]) -> None:
    from torch.distributed.algorithms.ddp_comm_hooks import (
        default_hooks,
        powerSGD_hook,
    )

    if options.get("hook") == "fp16":
        model.register_comm_hook(None, default_hooks.fp16_compress_hook)
    elif options.get("hook") == "powersgd":
        state = powerSGD_hook.PowerSGDState(
            process_group=None,
            matrix_approximation_rank=options["rank"],
            start_powerSGD_iter=2,  # the least that it takes with error feedback
        )
        model.register_comm_hook(state, powerSGD_hook.powerSGD_hook)


if __name__ == "__main__":
    main()
