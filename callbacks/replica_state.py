"""What has to be equal on all replicas, and when."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import Any

from tfdist.gradients import keras_names
from tfdist.gradients.attach import path_of
from tfdist.strategies.steps import replica_statistics
from tfdist.strategies.training import KerasTraining


def common_variables(
    model: Any, *, settled: bool, ignore: Sequence[str] = ()
) -> list[Any]:
    """Returns the variables that may not differ between replicas now.

    These are weights, optimizer slots, the loss scale, random states and moving
    statistics, without what differs by design:

    - gradients that are accumulated for a later update, and metrics;
    - the moving statistics of plain BatchNormalization and of layers of one's own,
      until an epoch's end;
    - with LocalSGD, what the replicas learn on their own, until an epoch's end, and
      the slots of their optimizers;
    - under other strategies, and with Horovod alone, random states and moving
      statistics, which nobody promises to keep equal.

    Args:
        model: A model that was trained.
        settled: Whether this is the end of an epoch, after statistics were averaged.
        ignore: Patterns of the paths of variables to leave out.
    """
    own_strategy = isinstance(model.distribute_strategy, KerasTraining)
    optimizer = model.optimizer
    path = path_of(optimizer)
    outer = None if path is None else path.method.outer
    # `weights` leaves random states out.
    variables = list(model.variables if own_strategy else model.weights)
    if outer is None:
        variables += keras_names.variables_of(optimizer)
    else:
        variables = variables if settled else []
        variables += keras_names.innermost(outer.optimizer)._trainable_variables
        variables += outer.optimizer.variables
    variables.sort(key=lambda each: each.name != "iteration")  # tells the most
    differing = [*model.metrics_variables, *keras_names.accumulators_of(optimizer)]
    if not (settled and own_strategy):
        differing += replica_statistics(model)
    left_out = {id(variable) for variable in differing}
    return [
        variable
        for variable in variables
        if id(variable) not in left_out
        and not any(fnmatch.fnmatchcase(variable.path, each) for each in ignore)
    ]
