"""All replicas of a model's state, whoever trains them."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfdist import cluster
from tfdist.coordination.launch import read_launch
from tfdist.errors import explain
from tfdist.gradients import lanes
from tfdist.strategies import synchronize
from tfdist.strategies.horovod_collectives import HorovodCollectives
from tfdist.strategies.replica import Replica, this_replica
from tfdist.strategies.training import KerasTraining


class Group:
    """What several replicas do together, outside `strategy.run`; all call it alike.

    Args:
        strategy: The strategy under which the variables were created.
        count: The number of replicas.
        here: Returns the replica that a function is run by.
        is_of_script: Whether a script that uses Horovod itself trains them.
    """

    def __init__(
        self,
        strategy: Any,
        count: int,
        here: Callable[[], Replica] = this_replica,
        *,
        is_of_script: bool = False,
    ) -> None:
        self.strategy = strategy
        self.count = count
        self.is_of_script = is_of_script
        self._here = here

    def ask(
        self,
        kind: str,
        variables: Sequence[Any],
        function: Callable[..., tf.Tensor],
        *arguments: Any,
    ) -> Any:
        """Returns the integers that a function returns on each replica, as an array.

        Args:
            kind: Names the function, which is traced once for these variables.
            variables: What it reads.
            function: Called with the `Replica` and the arguments; returns a tensor.
            *arguments: For the function.

        Returns:
            An array with one row for each replica, in their order; equal everywhere.
        """

        def of_all(*given: Any) -> tf.Tensor:
            here = self._here()
            return here.of_all(function(here, *given))

        rows = synchronize.run_often(self.strategy, kind, variables, of_all, *arguments)
        return self.strategy.experimental_local_results(rows)[0].numpy()

    def send_from_first(self, variables: Sequence[Any]) -> None:
        """Gives every replica the values of replica 0, bit for bit."""
        synchronize.send_from_first(self.strategy, variables, self._here)

    def name(self, number: int) -> str:
        """Returns how a user knows a replica."""
        processes = cluster.size()
        if self.count == processes:
            return f"rank {number}"
        if processes == 1:
            return f"replica {number}"
        rank, number = divmod(number, self.count // processes)
        return f"replica {number} of rank {rank}"


def group_of(model: Any) -> Group | None:
    """Returns the replicas of a model's state; None if there is only one.

    Several processes without a strategy are the ranks of a Horovod that the script
    uses itself.

    Raises:
        ValueError: Nothing connects the processes of this job.
    """
    strategy = model.distribute_strategy
    if strategy.num_replicas_in_sync > 1:
        return Group(strategy, strategy.num_replicas_in_sync)
    if isinstance(strategy, KerasTraining) or cluster.size() == 1:
        return None
    horovod = _horovod_of_the_script()
    collectives = _collectives(horovod)

    def total(tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        with lanes.lane(lanes.STATE):
            return [collectives.all_reduce(tensor) for tensor in tensors]

    here = Replica(horovod.rank(), horovod.size(), total)
    return Group(strategy, here.count, lambda: here, is_of_script=True)


@functools.cache
def _collectives(horovod: Any) -> HorovodCollectives:
    return HorovodCollectives(horovod)


def _horovod_of_the_script() -> Any:
    launch = read_launch(os.environ)
    try:
        if launch is not None and launch.launcher != "TF_CONFIG":
            import horovod.tensorflow as horovod

            horovod.init()  # for the script that has forgotten it; else it does nothing
            return horovod
    except ImportError:
        pass
    raise ValueError(
        explain(
            "The replicas of a model cannot be compared that nothing connects",
            received=f"a model without a strategy in a job of {cluster.size()} "
            "processes",
            expected="a model under a strategy, or Horovod",
            hint="Build the model under tfdist.strategy('auto').scope().",
        )
    )
