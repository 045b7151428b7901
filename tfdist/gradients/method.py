"""What callbacks may replace about how an optimizer's path trains."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from tfdist.gradients.reduction import PlainSum, Reduction

if TYPE_CHECKING:
    from tfdist.gradients.attach import GradientPath


def _nothing() -> None:
    """The null object of hooks."""


@dataclasses.dataclass(frozen=True)
class Method:
    """How gradients become updates; the default is what one process does.

    Attributes:
        reduction: Turns the replicas' gradients into the update's.
        after_step: Called on every replica at the end of each training step.
        settle: Called outside the replicas before an epoch's results are taken, by
            all processes alike.
        outer: Where an outer optimizer applies what replicas have learned on their
            own: its path. It then carries what is exchanged.
    """

    reduction: Reduction = dataclasses.field(default_factory=PlainSum)
    after_step: Callable[[], None] = _nothing
    settle: Callable[[], None] = _nothing
    outer: GradientPath | None = None


PLAIN = Method()
