"""Where a callback stands in the list: declared by its class, checked before it begins.

Keras calls the callbacks of a list one after the other, at each point of training, and
tells none of them of the others. So the list itself is looked at, once all are known
and before the first of them has changed anything; in a `fit` and in loops that make a
`CallbackList`, under every strategy and without any.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tfdist.errors import explain

from .whole_list import Outermost

_OWNERS = ("keras", "tfdist")  # a user's own class may bear the same name


class Placed(Outermost):
    """A callback of which a list holds one, in its place among the others.

    Attributes:
        precedes: Names of Keras's or tfdist's callbacks that have to come later in
            the list, and why.
        excludes: Names of those that may not be in the list, and what is expected.
        instead_of_two: What to do instead of giving it twice.
    """

    precedes: ClassVar[Mapping[str, str]] = {}
    excludes: ClassVar[Mapping[str, str]] = {}
    instead_of_two: ClassVar[str] = "Leave one of them out."

    def before_train_begin(self, logs: Any = None) -> None:
        """Looks at the whole list, before the first callback has changed anything."""
        check(self.whole_list)


def adds_to_logs(name: str) -> dict[str, str]:
    """Returns the callbacks that a callback precedes which adds to an epoch's logs."""
    writers = ("CSVLogger", "TensorBoard")
    return {
        w: f"{w} writes an epoch's logs before {name} adds to them" for w in writers
    }


def check(callbacks: Sequence[Any]) -> None:
    """Looks at a whole list of callbacks.

    Raises:
        ValueError: One is there twice, after one that it has to precede, or together
            with one that it excludes.
    """
    given = _names(callbacks)
    for number, callback in enumerate(callbacks):
        if not isinstance(callback, Placed):
            continue
        earlier = _names(callbacks[:number])
        name = _name(callback)
        if name in earlier:
            raise ValueError(
                explain(
                    f"One fit takes one {name}",
                    received=f"two {name} callbacks",
                    expected="one",
                    hint=callback.instead_of_two,
                )
            )
        for other in earlier.intersection(callback.precedes):
            raise ValueError(
                explain(
                    callback.precedes[other],
                    received=f"{other} before {name}",
                    expected=f"{name} first",
                    hint=f"callbacks=[{name}(...), {other}(...)]",
                )
            )
        for other in given.intersection(callback.excludes):
            raise ValueError(
                explain(
                    f"{name} and {other} exclude each other",
                    received="both in one fit",
                    expected=callback.excludes[other],
                    hint=f"Leave {name} or {other} out.",
                )
            )


def _names(callbacks: Sequence[Any]) -> set[str]:
    """Returns what the callbacks are; a subclass is what its bases are, too."""
    return {
        kind.__name__
        for callback in callbacks
        for kind in type(callback).__mro__
        if kind.__module__.partition(".")[0] in _OWNERS
    }


def _name(callback: Placed) -> str:
    """Returns the name of a callback's class, or of the one that a user derived."""
    kinds = type(callback).__mro__
    return next(k.__name__ for k in kinds if k.__module__.startswith("tfdist."))
