"""What a user is told of replicas that differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfdist.errors import explain
from tfdist.strategies.comparison import Difference, Summary, measure
from tfdist.strategies.group import Group

_VARIABLES = 10  # that are named and measured; each is sent once for it
_REPLICAS = 4  # that are named


@dataclass(frozen=True)
class Report:
    """Words one comparison; equal on all processes but for the names of layers.

    Attributes:
        group: The replicas that were compared.
        when: Such as "after step 1 of epoch 1".
    """

    group: Group
    when: str

    def of_layouts(self, layouts: np.ndarray) -> str:
        """Words that replicas hold variables of other shapes or types."""
        others = np.flatnonzero(layouts != layouts[0]).tolist()
        return explain(
            f"Replicas train different models, found {self.when}",
            received=f"variables of other shapes or types on {self._names(others)} "
            f"than on {self.group.name(0)}",
            expected=f"one model and one optimizer on all {self.group.count} replicas",
            hint="Build and compile the model from the same arguments on all ranks.",
        )

    def of_values(self, found: Summary, different: Sequence[Any]) -> str:
        """Words that variables, or the numbers of steps, differ.

        Args:
            found: What all replicas have said.
            different: The variables; some of them are measured, with all replicas.
        """
        shown = different[:_VARIABLES]
        parts = [self._one(each) for each in measure(self.group, shown)]
        if len(different) > len(shown):
            parts.append(f"and {len(different) - len(shown)} variables more")
        for place in np.flatnonzero(found.steps != found.steps[0])[:_REPLICAS]:
            parts.append(
                f"{self.group.name(place)} at step {found.steps[place]}, "
                f"{self.group.name(0)} at step {found.steps[0]}"
            )
        return explain(
            f"Replicas that have to be equal differ {self.when}",
            received="; ".join(parts),
            expected=f"the same bits on all {self.group.count} replicas",
            hint=self._hint(found.states),
        )

    def _hint(self, states: np.ndarray) -> str:
        if self.group.is_of_script:
            return (
                "Horovod's own DistributedOptimizer sums no gradients under Keras 3: "
                "build and compile the model under tfdist.strategy('horovod').scope()."
            )
        first = self.group.name(0)
        if len(states) > 2 and (states[1:] == states[1]).all():
            return (
                f"All others agree, so {first} itself may be wrong: look at its "
                "memory and its files; go on from a checkpoint."
            )
        return (
            "Look for what not all replicas do alike: loading or setting weights, a "
            "callback that one rank has, failing memory. "
            f"ReplicaConsistency(action='repair') goes on with the values of {first}."
        )

    def _one(self, each: Difference) -> str:
        shape = tuple(each.variable.shape)
        size = int(np.prod(shape))
        return (
            f"{each.variable.path!r} on {self._names(each.replicas)} "
            f"(by up to {each.largest:.3g}, in {each.elements} of {size} elements)"
        )

    def _names(self, numbers: Sequence[int]) -> str:
        names = [self.group.name(number) for number in numbers[:_REPLICAS]]
        if len(numbers) > _REPLICAS:
            names.append(f"{len(numbers) - _REPLICAS} more")
        return " and ".join(names)
