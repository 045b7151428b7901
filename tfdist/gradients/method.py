"""What callbacks may replace about how an optimizer's path trains."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from tfdist.errors import explain
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
        claims: The callbacks that have replaced, or will replace, something.
    """

    reduction: Reduction = dataclasses.field(default_factory=PlainSum)
    after_step: Callable[[], None] = _nothing
    settle: Callable[[], None] = _nothing
    outer: GradientPath | None = None
    claims: tuple[str, ...] = ()

    def claimed(
        self,
        name: str,
        *,
        before: tuple[str, ...] = (),
        without: tuple[str, ...] = (),
    ) -> Method:
        """Returns the same method with one more claim.

        Args:
            name: The callback's name.
            before: The callbacks that it has to precede in the list.
            without: The callbacks that it excludes.

        Raises:
            ValueError: It has a claim already, comes after one of `before`, or
                together with one of `without`.
        """
        if name in self.claims:
            raise ValueError(
                explain(
                    f"One fit takes one {name}",
                    received=f"two {name} callbacks",
                    expected="one",
                    hint="Leave one of them out.",
                )
            )
        for late in before:
            if late in self.claims:
                raise ValueError(
                    explain(
                        f"{name} changes what {late} works on",
                        received=f"{late} before {name}",
                        expected=f"{name} first",
                        hint=f"callbacks=[{name}(...), {late}(...)]",
                    )
                )
        for other in without:
            if other in self.claims:
                raise ValueError(
                    explain(
                        f"{other} and {name} exclude each other",
                        received="both in one fit",
                        expected="one of them: the noise is measured in plain sums",
                        hint=f"Leave {other} or {name} out.",
                    )
                )
        return dataclasses.replace(self, claims=(*self.claims, name))
